package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/google/go-attestation/attest"
	"github.com/gorilla/websocket"
)

// credential is what a challenge asks the TPM to open.
type credential = attest.EncryptedCredential

// The messages of the exchange. Field names are Go's own, byte slices are base64.
type (
	attestationData struct {
		EK []byte
		AK *attest.AttestationParameters
	}
	challenge struct {
		EC *credential
	}
	challengeResponse struct {
		Secret []byte
	}
)

// registrationHeader says who asks: the keys in Authorization, and the SMBIOS document, if any, in one header of its own.
func registrationHeader(m *machine, smbios string) (http.Header, error) {
	data, err := m.attestationData()
	if err != nil {
		return nil, err
	}
	token, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("writing the attestation data: %w", err)
	}
	header := http.Header{}
	header.Set("Authorization", "Bearer TPM"+base64.StdEncoding.EncodeToString(token))
	if smbios != "" {
		document, err := os.ReadFile(smbios)
		if err != nil {
			return nil, fmt.Errorf("reading the SMBIOS document: %w", err)
		}
		header.Set("X-Cattle-Smbios", base64.StdEncoding.EncodeToString(document))
	}
	return header, nil
}

// register plays the machine's part over a websocket without a subprotocol: challenge, secret, configuration.
func register(
	ctx context.Context, url, authority string, header http.Header, answer func(credential) ([]byte, error),
) (json.RawMessage, error) {
	roots, err := trustedRoots(authority)
	if err != nil {
		return nil, err
	}
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: roots}}
	connection, response, err := dialer.DialContext(ctx, strings.Replace(url, "http", "ws", 1), header)
	if err != nil {
		return nil, refusal(response, err)
	}
	defer connection.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = connection.SetReadDeadline(deadline)
		_ = connection.SetWriteDeadline(deadline)
	}

	var asked challenge
	if err := receive(connection, "the challenge", &asked); err != nil {
		return nil, err
	}
	if asked.EC == nil {
		return nil, fmt.Errorf("reading the challenge: it holds no EC")
	}
	secret, err := answer(*asked.EC)
	if err != nil {
		return nil, err
	}
	if err := send(connection, challengeResponse{Secret: secret}); err != nil {
		return nil, err
	}
	var config json.RawMessage
	return config, receive(connection, "the configuration", &config)
}

// send writes one binary message that ends in a newline, as json.Encoder leaves it.
func send(connection *websocket.Conn, message any) error {
	var text bytes.Buffer
	if err := json.NewEncoder(&text).Encode(message); err != nil {
		return fmt.Errorf("writing the secret: %w", err)
	}
	if err := connection.WriteMessage(websocket.BinaryMessage, text.Bytes()); err != nil {
		return fmt.Errorf("sending the secret: %w", err)
	}
	return nil
}

// receive reads one message; the first release did not look at its kind, text or binary.
func receive(connection *websocket.Conn, what string, message any) error {
	_, text, err := connection.ReadMessage()
	if err != nil {
		return fmt.Errorf("receiving %s: %w", what, err)
	}
	if err := json.Unmarshal(text, message); err != nil {
		return fmt.Errorf("reading %s (%d bytes): %w", what, len(text), err)
	}
	return nil
}

func trustedRoots(authority string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, fmt.Errorf("reading the trusted authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the trusted authority: no certificate in %s", authority)
	}
	return roots, nil
}

// refusal gives the server's words where it answered without opening a websocket.
func refusal(response *http.Response, err error) error {
	if response == nil {
		return fmt.Errorf("connecting: %w", err)
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	return fmt.Errorf("connecting: HTTP %d: %s", response.StatusCode, strings.TrimSpace(string(body)))
}
