package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// commandChannel carries TPM commands over TCP and behaves as the kernel's TPM device does, which is what the library
// was written for: a read gives one whole response, and a command that the TPM could not start is sent again.
type commandChannel struct {
	connection net.Conn
	command    []byte
}

// A response starts with a tag (2 bytes), its whole size (4) and a response code (4), all big-endian: TPM 2.0 Library,
// part 1, section 18.
const (
	sizeOffset   = 2
	codeOffset   = 6
	headerLength = 10
)

// TPM_RC_RETRY, part 2, section 6.6: nothing was done; the same command may be sent again.
const codeRetry = 0x922

// The kernel gives up in the end as well (drivers/char/tpm/tpm-interface.c, tpm_transmit).
const maxAttempts = 20

func (c *commandChannel) Write(command []byte) (int, error) {
	c.command = append(c.command[:0], command...)
	return c.connection.Write(command)
}

func (c *commandChannel) Read(response []byte) (int, error) {
	for attempt := 1; ; attempt++ {
		size, err := c.readResponse(response)
		if err != nil || attempt == maxAttempts || binary.BigEndian.Uint32(response[codeOffset:]) != codeRetry {
			return size, err
		}
		if _, err := c.connection.Write(c.command); err != nil {
			return 0, err
		}
	}
}

func (c *commandChannel) readResponse(response []byte) (int, error) {
	if len(response) < headerLength {
		return 0, io.ErrShortBuffer
	}
	if _, err := io.ReadFull(c.connection, response[:headerLength]); err != nil {
		return 0, err
	}
	size := int(binary.BigEndian.Uint32(response[sizeOffset:]))
	if size < headerLength || size > len(response) {
		return 0, fmt.Errorf("the TPM announces a response of %d bytes; %d to %d fit", size, headerLength, len(response))
	}
	_, err := io.ReadFull(c.connection, response[headerLength:size])
	return size, err
}

func (c *commandChannel) Close() error {
	return c.connection.Close()
}

func (c *commandChannel) MeasurementLog() ([]byte, error) {
	return nil, errors.New("the first release's registration reads no event log")
}
