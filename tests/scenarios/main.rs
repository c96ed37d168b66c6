mod exchange;
mod first_release;
mod harness;
mod installer_register;
mod tpm_device;
