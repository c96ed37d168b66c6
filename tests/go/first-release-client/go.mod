module example.org/first-release-client

go 1.21

// The libraries and versions of the first release's client: rancher/os2 v0.1.0-alpha12 and the rancherd it is built
// with. They are the point of this program and are not to be updated.
require (
	github.com/google/go-attestation v0.3.2
	github.com/gorilla/websocket v1.4.2
)

require (
	github.com/google/certificate-transparency-go v1.1.1 // indirect
	github.com/google/go-tpm v0.3.2 // indirect
	github.com/google/go-tspi v0.2.1-0.20190423175329-115dea689aad // indirect
	golang.org/x/crypto v0.0.0-20210314154223-e6e6c4f2bb5b // indirect
	golang.org/x/sys v0.0.0-20210316092937-0b90fd5c4c48 // indirect
)
