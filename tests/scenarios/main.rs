mod exchange;
mod first_release;
mod harness;
