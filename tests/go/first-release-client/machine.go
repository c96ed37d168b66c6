package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"

	"github.com/google/go-attestation/attest"
)

// machine is a TPM with the endorsement key it is known by and a fresh attestation key.
type machine struct {
	tpm *attest.TPM
	ek  attest.EK
	ak  *attest.AK
}

func openMachine(ctx context.Context, address string) (*machine, error) {
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to the TPM: %w", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = connection.SetDeadline(deadline)
	}
	tpm, err := attest.OpenTPM(&attest.OpenConfig{
		TPMVersion:     attest.TPMVersion20,
		CommandChannel: &commandChannel{connection: connection},
	})
	if err != nil {
		connection.Close()
		return nil, fmt.Errorf("opening the TPM at %s: %w", address, err)
	}
	m := &machine{tpm: tpm}
	if err := m.makeKeys(); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// makeKeys takes the first endorsement key, as the first release did.
func (m *machine) makeKeys() error {
	eks, err := m.tpm.EKs()
	if err != nil {
		return fmt.Errorf("reading the endorsement keys: %w", err)
	}
	if len(eks) == 0 {
		return errors.New("reading the endorsement keys: the TPM has none")
	}
	m.ek = eks[0]
	if m.ak, err = m.tpm.NewAK(nil); err != nil {
		return fmt.Errorf("making an attestation key: %w", err)
	}
	return nil
}

func (m *machine) close() {
	if m.ak != nil {
		_ = m.ak.Close(m.tpm)
	}
	_ = m.tpm.Close()
}

// attestationData names both keys. The endorsement key goes as its certificate where the TPM holds one.
func (m *machine) attestationData() (*attestationData, error) {
	der, err := m.ekPublic()
	if err != nil {
		return nil, err
	}
	block := &pem.Block{Type: "PUBLIC KEY", Bytes: der}
	if m.ek.Certificate != nil {
		block = &pem.Block{Type: "CERTIFICATE", Bytes: m.ek.Certificate.Raw}
	}
	parameters := m.ak.AttestationParameters()
	return &attestationData{EK: pem.EncodeToMemory(block), AK: &parameters}, nil
}

// tpmHash is the identity by which the first release's operator knew a machine.
func (m *machine) tpmHash() (string, error) {
	der, err := m.ekPublic()
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(der)
	return hex.EncodeToString(hash[:]), nil
}

// ekPublic is the endorsement key as PKIX DER.
func (m *machine) ekPublic() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(m.ek.Public)
	if err != nil {
		return nil, fmt.Errorf("writing the endorsement key: %w", err)
	}
	return der, nil
}

func (m *machine) activate(asked credential) ([]byte, error) {
	secret, err := m.ak.ActivateCredential(m.tpm, asked)
	if err != nil {
		return nil, fmt.Errorf("activating the credential: %w", err)
	}
	return secret, nil
}
