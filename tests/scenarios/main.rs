mod api;
mod exchange;
mod first_release;
mod harness;
mod installer_register;
mod life;
mod tpm_device;
