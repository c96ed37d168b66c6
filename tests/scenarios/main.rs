mod first_release;
mod harness;
