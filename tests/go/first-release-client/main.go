// A machine of the first release (rancher/os2 v0.1.0-alpha12), as far as the operator can tell: it registers with that
// client's libraries and messages, and shares no code with the operator it tests.
//
// It prints one JSON object: the TPM hash it went by, and the configuration it was given.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

// registration is what a run of this program gives.
type registration struct {
	TPMHash string          `json:"tpmHash"`
	Config  json.RawMessage `json:"config"`
}

func main() {
	var (
		url         = flag.String("url", "", "registration URL")
		authority   = flag.String("ca", "", "PEM file of the only authority trusted for it")
		tpmAddress  = flag.String("tpm", "", "host:port of a TPM that takes bare commands over TCP (swtpm)")
		smbios      = flag.String("smbios", "", "JSON file with the SMBIOS document; none: no SMBIOS header")
		wrongSecret = flag.Bool("wrong-secret", false, "answer the challenge with a secret that the TPM did not give")
		limit       = flag.Duration("timeout", 60*time.Second, "limit for everything")
	)
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	if err := run(ctx, *url, *authority, *tpmAddress, *smbios, *wrongSecret); err != nil {
		fmt.Fprintln(os.Stderr, "first-release-client:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url, authority, tpmAddress, smbios string, wrongSecret bool) error {
	machine, err := openMachine(ctx, tpmAddress)
	if err != nil {
		return err
	}
	defer machine.close()
	header, err := registrationHeader(machine, smbios)
	if err != nil {
		return err
	}
	answer := machine.activate
	if wrongSecret {
		answer = func(credential) ([]byte, error) { return make([]byte, 32), nil }
	}
	config, err := register(ctx, url, authority, header, answer)
	if err != nil {
		return err
	}
	hash, err := machine.tpmHash()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(registration{TPMHash: hash, Config: config})
}
