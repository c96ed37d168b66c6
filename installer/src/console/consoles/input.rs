//! Reads lines that are typed on any of the consoles.

use super::screen::Screen;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::Instant;

/// Longest answer in bytes. An SSH key of RSA has 700 characters. The kernel's own limit is 4095.
const LONGEST_ANSWER: usize = 4096;

/// Waits for input on any of the consoles and returns a complete line. `None` if no console can be read, or if the
/// deadline has passed.
pub(super) fn first_line<'a>(
    listening: &mut Vec<(&'a Screen, Vec<u8>)>,
    deadline: Option<Instant>,
) -> Option<Option<(&'a Screen, String)>> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let timeout = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    let mut ready: Vec<PollFd> =
        listening.iter().map(|(screen, _)| PollFd::new(screen.tty.as_fd(), PollFlags::POLLIN)).collect();
    match poll(&mut ready, timeout) {
        Err(Errno::EINTR) => return Some(None),
        Err(_) | Ok(0) => return None,
        Ok(_) => {}
    }
    let events: Vec<PollFlags> = ready.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
    let mut answer = None;
    let mut events = events.into_iter();
    listening.retain_mut(|(screen, begun)| {
        let event = events.next().unwrap_or(PollFlags::empty());
        if event.is_empty() || answer.is_some() {
            return true;
        }
        let mut buffer = [0; LONGEST_ANSWER];
        match nix::unistd::read(&screen.tty, &mut buffer) {
            Ok(0) => !event.contains(PollFlags::POLLHUP),
            Ok(length) => {
                begun.extend(&buffer[..length.min(LONGEST_ANSWER.saturating_sub(begun.len()))]);
                if buffer[..length].ends_with(b"\n") {
                    answer = Some((*screen, typed(&std::mem::take(begun))));
                }
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => true,
            Err(_) => false,
        }
    });
    (!listening.is_empty()).then_some(answer)
}

/// The line after erasing. The kernel handles the terminal's erase key, but some terminals send the other one.
fn typed(line: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(line).chars() {
        match character {
            '\u{8}' | '\u{7f}' => drop(text.pop()),
            '\r' | '\n' => {}
            other => text.push(other),
        }
    }
    text
}
