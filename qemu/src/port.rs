//! Ports of the loopback interface that no other test takes between reserving and listening.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;

/// A free port, reserved until this value is dropped. Other tests see the lock. The kernel does not give the port to
/// other programs, because it lies below the ephemeral range (32768 and up).
pub struct Port {
    number: u16,
    _lock: File,
}

const RANGE: std::ops::Range<u16> = 20_000..32_000;

impl Port {
    pub fn reserve() -> Result<Self> {
        Self::reserve_row::<1>().map(|[port]| port)
    }

    /// Two ports with successive numbers.
    pub fn reserve_pair() -> Result<[Self; 2]> {
        Self::reserve_row()
    }

    fn reserve_row<const N: usize>() -> Result<[Self; N]> {
        let folder = std::env::temp_dir().join("ros-test-ports");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // Processes start at different numbers, so that they seldom try the same port.
        let size = usize::from(RANGE.end - RANGE.start);
        let first = std::process::id() as usize * 61 % size;
        for step in 0..size {
            let number = RANGE.start + ((first + step) % size) as u16;
            let row: Option<Vec<Self>> =
                (number..number + N as u16).map(|number| Self::try_reserve(&folder, number)).collect::<Result<_>>()?;
            if let Some(Ok(row)) = row.map(<[Self; N]>::try_from) {
                return Ok(row);
            }
        }
        bail!("no port from {} to {} is free on 127.0.0.1", RANGE.start, RANGE.end)
    }

    /// `None` when somebody else has it.
    fn try_reserve(folder: &Path, number: u16) -> Result<Option<Self>> {
        let path = folder.join(number.to_string());
        let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let free = lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok();
        Ok(free.then_some(Self { number, _lock: lock }))
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reservations_differ_and_can_be_listened_on() {
        let (one, two) = (Port::reserve().unwrap(), Port::reserve().unwrap());
        assert_ne!(one.number(), two.number());
        TcpListener::bind(("127.0.0.1", one.number())).unwrap();
        let [one, two] = Port::reserve_pair().unwrap();
        assert_eq!(one.number() + 1, two.number());
    }
}
