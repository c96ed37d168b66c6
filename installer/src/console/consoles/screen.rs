//! One console: a terminal, and the output that a separate thread still has to write to it.

use super::lock;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    BaudRate, ControlFlags, FlushArg, InputFlags, LocalFlags, OutputFlags, SetArg, cfsetspeed, tcdrain, tcflush,
    tcgetattr, tcsetattr,
};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Limit in bytes of the unwritten output of one console: six seconds at 115,200 baud.
pub(super) const BUFFER: usize = 64 << 10;
/// One console.
pub(super) struct Screen {
    /// Name below /dev.
    pub(super) name: String,
    pub(super) tty: Arc<File>,
    pub(super) output: Arc<Output>,
}

/// Output that still has to be written to one console.
#[derive(Default)]
pub(super) struct Output {
    pub(super) pending: Mutex<Pending>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct Pending {
    pub(super) bytes: VecDeque<u8>,
    /// Whether the last bytes that were taken are not all written yet.
    pub(super) is_writing: bool,
    /// Whether the console is gone.
    pub(super) is_closed: bool,
}

impl Screen {
    pub(super) fn begin(name: String, tty: File) -> Self {
        let (tty, output) = (Arc::new(tty), Arc::new(Output::default()));
        let (to, from) = (Arc::clone(&tty), Arc::clone(&output));
        // If no thread can be started, only this console shows nothing.
        let started = thread::Builder::new().name(name.clone()).spawn(move || from.write_to(&to));
        if started.is_err() {
            output.close();
        }
        Self { name, tty, output }
    }
}

impl Output {
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut pending = lock(&self.pending);
        if pending.is_closed {
            return;
        }
        if pending.bytes.len() + bytes.len() > BUFFER {
            // The newest text is kept, because it shows the current state.
            pending.bytes.clear();
            pending.bytes.extend(b"\n(This console was too slow; some lines are missing here.)\n");
        }
        pending.bytes.extend(bytes);
        self.changed.notify_all();
    }

    fn write_to(&self, tty: &File) {
        while let Some(bytes) = self.take() {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match nix::unistd::write(tty, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => {
                        // An error here occurs at the next write again.
                        let _ = poll(&mut [PollFd::new(tty.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
                    }
                    Err(_) => return self.close(),
                }
            }
            // Only this thread waits. If the wait fails, the bytes were still written.
            let _ = tcdrain(tty);
            lock(&self.pending).is_writing = false;
            self.changed.notify_all();
        }
    }

    fn take(&self) -> Option<Vec<u8>> {
        let pending = lock(&self.pending);
        let idle = |pending: &mut Pending| pending.bytes.is_empty() && !pending.is_closed;
        let mut pending = self.changed.wait_while(pending, idle).unwrap_or_else(PoisonError::into_inner);
        pending.is_writing = true;
        let length = pending.bytes.len().min(1024);
        (!pending.is_closed).then(|| pending.bytes.drain(..length).collect())
    }

    fn close(&self) {
        let mut pending = lock(&self.pending);
        (pending.is_closed, pending.is_writing) = (true, false);
        pending.bytes.clear();
        self.changed.notify_all();
    }

    pub(super) fn wait(&self, deadline: Instant) {
        let pending = lock(&self.pending);
        let left = deadline.saturating_duration_since(Instant::now());
        let busy = |pending: &mut Pending| pending.is_writing || !pending.bytes.is_empty();
        drop(self.changed.wait_timeout_while(pending, left, busy));
    }
}

/// Sets up a terminal for line input with echo and without flow control.
pub(super) fn prepare(tty: &File, is_unused_port: bool) -> io::Result<()> {
    let mut settings = tcgetattr(tty)?;
    settings.input_flags = InputFlags::ICRNL | InputFlags::IGNBRK | InputFlags::IGNPAR;
    settings.output_flags = OutputFlags::OPOST | OutputFlags::ONLCR;
    // The line end is echoed even when a secret is typed.
    settings.local_flags =
        LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ECHOE | LocalFlags::ECHOK | LocalFlags::ECHONL;
    settings.control_flags.remove(ControlFlags::CSIZE | ControlFlags::CRTSCTS | ControlFlags::PARENB);
    settings.control_flags.insert(ControlFlags::CS8 | ControlFlags::CLOCAL | ControlFlags::CREAD);
    if is_unused_port {
        // The kernel has set the speed of its own console. The others get the speed that we use everywhere.
        cfsetspeed(&mut settings, BaudRate::B115200)?;
    }
    tcsetattr(tty, SetArg::TCSANOW, &settings)?;
    Ok(tcflush(tty, FlushArg::TCIFLUSH)?)
}
