//! All consoles of a machine, its screen and its serial ports: what is said appears on each of them, and a question is
//! asked on each of them. None of them is waited for: each has a bounded buffer and a thread of its own that writes.

use crate::machine::sysfs;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    BaudRate, ControlFlags, FlushArg, InputFlags, LocalFlags, OutputFlags, SetArg, cfsetspeed, tcdrain, tcflush,
    tcgetattr, tcsetattr,
};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The size of a serial terminal; a screen has at least that.
const COLUMNS: usize = 80;
/// The heading is repeated after so many rows: a terminal of 24 shows one wherever it was scrolled to.
const ROWS_PER_HEADING: usize = 20;
/// What one console may be behind. At 115,200 baud this takes six seconds.
const BUFFER: usize = 64 << 10;
/// Longest line that is taken as an answer; an SSH key of RSA has 700 characters. The kernel's own limit is 4095.
const LONGEST_ANSWER: usize = 4096;

/// Where to talk to people.
pub struct Consoles {
    screens: Vec<Screen>,
    page: Mutex<Page>,
}

/// One of them.
struct Screen {
    /// Below /dev.
    name: String,
    tty: Arc<File>,
    output: Arc<Output>,
}

/// What is still to be written to one console.
#[derive(Default)]
struct Output {
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    bytes: VecDeque<u8>,
    /// The last bytes that were taken are not all on the console yet.
    is_writing: bool,
    /// The console is gone.
    is_closed: bool,
}

/// The parts of the line that is repeated above what is said, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heading {
    /// What this is.
    System,
    Machine,
    Address,
}

/// What all consoles show.
#[derive(Default)]
struct Page {
    heading: BTreeMap<Heading, String>,
    rows_since_heading: usize,
    /// The last line has no end yet: a progress bar or a question.
    line_is_open: bool,
}

impl Consoles {
    /// Opens all consoles that the machine has. `None`: it has none.
    pub fn open(root: &Path) -> Option<Self> {
        let kernels = kernel_consoles(root);
        let screens: Vec<_> = names(root)
            .into_iter()
            .filter_map(|name| {
                let tty = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK)
                    .open(root.join("dev").join(&name))
                    .ok()?;
                let is_unused_port = name.starts_with("ttyS") && !kernels.contains(&name);
                prepare(&tty, is_unused_port).ok()?;
                Some((name, tty))
            })
            .collect();
        (!screens.is_empty()).then(|| Self::new(screens))
    }

    /// Terminals by name. They must be open without blocking.
    fn new(terminals: Vec<(String, File)>) -> Self {
        let screens = terminals.into_iter().map(|(name, tty)| Screen::begin(name, tty)).collect();
        Self { screens, page: Mutex::default() }
    }

    /// Sets a part of the line that is repeated above what is said.
    pub fn head(&self, part: Heading, text: &str) {
        lock(&self.page).heading.insert(part, text.to_owned());
    }

    /// Shows whole lines. They start on a line of their own, whatever is open.
    pub fn say(&self, text: &str) {
        let mut page = lock(&self.page);
        let text = page.compose(text);
        self.screens.iter().for_each(|screen| screen.output.push(text.as_bytes()));
    }

    /// Shows text as it is, such as a progress bar that redraws its line.
    pub fn show(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut page = lock(&self.page);
        page.line_is_open = !text.ends_with('\n');
        self.screens.iter().for_each(|screen| screen.output.push(text.as_bytes()));
    }

    /// Asks on all consoles. The first one that answers counts; the others are told the answer, unless it is secret.
    /// `None`: nobody has answered within `patience`, or there is no console left to answer on.
    pub fn ask(&self, prompt: &str, is_secret: bool, patience: Option<Duration>) -> Option<String> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        self.echo(!is_secret);
        self.show(prompt);
        let mut listening: Vec<(&Screen, Vec<u8>)> = self.screens.iter().map(|screen| (screen, Vec::new())).collect();
        let answer = loop {
            if let Some((screen, line)) = first_line(&mut listening, deadline)? {
                if !line.contains(prompt.trim()) {
                    break (screen, line);
                }
                // A port that is looped back, or whose other end repeats what it hears, would answer every question.
                listening.retain(|(other, _)| other.name != screen.name);
                self.say(&format!("{} sends back what is shown on it, and is not listened to.", screen.name));
                self.show(prompt);
            }
        };
        let (answered, answer) = answer;
        let shown = if is_secret { "" } else { answer.as_str() };
        for other in self.screens.iter().filter(|screen| screen.name != answered.name) {
            // What was begun here belongs to no question any more.
            let _ = tcflush(&*other.tty, FlushArg::TCIFLUSH);
            other.output.push(format!("\r{prompt}{shown}  (answered on {})\x1b[K\n", answered.name).as_bytes());
        }
        self.echo(true);
        // The Enter that ended the answer ended the line.
        let mut page = lock(&self.page);
        page.line_is_open = false;
        page.rows_since_heading += rows(prompt);
        Some(answer)
    }

    /// Waits until everything is on the consoles that take it, at most for `limit`.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.screens.iter().for_each(|screen| screen.output.wait(deadline));
    }

    fn echo(&self, is_on: bool) {
        for screen in &self.screens {
            // A console that is gone needs no echo.
            let Ok(mut settings) = tcgetattr(&*screen.tty) else { continue };
            settings.local_flags.set(LocalFlags::ECHO, is_on);
            let _ = tcsetattr(&*screen.tty, SetArg::TCSANOW, &settings);
        }
    }
}

impl Page {
    fn compose(&mut self, text: &str) -> String {
        let mut shown = String::new();
        if std::mem::take(&mut self.line_is_open) {
            shown.push('\n');
        }
        let text = text.trim_end_matches('\n');
        let rows: usize = text.split('\n').map(rows).sum();
        if !self.heading.is_empty()
            && (self.rows_since_heading == 0 || self.rows_since_heading + rows > ROWS_PER_HEADING)
        {
            shown.push_str(&heading(&self.heading));
            self.rows_since_heading = 1;
        }
        self.rows_since_heading += rows;
        shown.push_str(text);
        shown.push('\n');
        shown
    }
}

/// `--- RancherOS 0.1.0 installer | Acme Anvil, serial S-1 | eth0 10.0.2.15 -----`, one column less than a row.
fn heading(parts: &BTreeMap<Heading, String>) -> String {
    let parts: Vec<&str> = parts.values().map(String::as_str).collect();
    let text: String = format!("--- {} ", parts.join(" | ")).chars().take(COLUMNS - 2).collect();
    format!("{text:-<width$}\n", width = COLUMNS - 1)
}

fn rows(line: &str) -> usize {
    line.chars().count().div_ceil(COLUMNS).max(1)
}

impl Screen {
    fn begin(name: String, tty: File) -> Self {
        let (tty, output) = (Arc::new(tty), Arc::new(Output::default()));
        let (to, from) = (Arc::clone(&tty), Arc::clone(&output));
        // Without a thread this console stays dark; the others do not.
        let started = thread::Builder::new().name(name.clone()).spawn(move || from.write_to(&to));
        if started.is_err() {
            output.close();
        }
        Self { name, tty, output }
    }
}

impl Output {
    fn push(&self, bytes: &[u8]) {
        let mut pending = lock(&self.pending);
        if pending.is_closed {
            return;
        }
        if pending.bytes.len() + bytes.len() > BUFFER {
            // The newest text says how things are.
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
                        // An error here is one of the next write as well.
                        let _ = poll(&mut [PollFd::new(tty.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
                    }
                    Err(_) => return self.close(),
                }
            }
            // Only this thread waits. What cannot be waited for was written all the same.
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

    fn wait(&self, deadline: Instant) {
        let pending = lock(&self.pending);
        let left = deadline.saturating_duration_since(Instant::now());
        let busy = |pending: &mut Pending| pending.is_writing || !pending.bytes.is_empty();
        drop(self.changed.wait_timeout_while(pending, left, busy));
    }
}

/// Waits for input on any of the consoles; gives the line when one is whole. `None`: none of them can be read from, or it
/// is late.
fn first_line<'a>(
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

/// The line that was meant. The kernel edits with the terminal's erase key; some terminals send the other one.
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

/// Sets a terminal up for lines: edited by the kernel, shown as they are typed, never stopped by the other end.
fn prepare(tty: &File, is_unused_port: bool) -> io::Result<()> {
    let mut settings = tcgetattr(tty)?;
    settings.input_flags = InputFlags::ICRNL | InputFlags::IGNBRK | InputFlags::IGNPAR;
    settings.output_flags = OutputFlags::OPOST | OutputFlags::ONLCR;
    // The end of a line is shown although a secret is not.
    settings.local_flags =
        LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ECHOE | LocalFlags::ECHOK | LocalFlags::ECHONL;
    settings.control_flags.remove(ControlFlags::CSIZE | ControlFlags::CRTSCTS | ControlFlags::PARENB);
    settings.control_flags.insert(ControlFlags::CS8 | ControlFlags::CLOCAL | ControlFlags::CREAD);
    if is_unused_port {
        // The kernel has set the speed of its own console; the others are set as ours are everywhere.
        cfsetspeed(&mut settings, BaudRate::B115200)?;
    }
    tcsetattr(tty, SetArg::TCSANOW, &settings)?;
    Ok(tcflush(tty, FlushArg::TCIFLUSH)?)
}

/// Names below /dev, the screen first: the first virtual terminal, serial ports that are there, the consoles that the
/// kernel uses, and that of a hypervisor.
fn names(root: &Path) -> Vec<String> {
    let folder = root.join("sys/class/tty");
    let is_console = |name: &String| match name.as_str() {
        "tty1" | "hvc0" => true,
        // Ports that nothing was found behind have the type PORT_UNKNOWN (linux/serial.h).
        name if name.starts_with("ttyS") => sysfs::flag(&folder.join(name).join("type")),
        _ => false,
    };
    let mut names: Vec<String> = sysfs::names(&folder).into_iter().filter(is_console).collect();
    names.sort_by_key(|name| name != "tty1");
    let more: Vec<String> = kernel_consoles(root).into_iter().filter(|name| !names.contains(name)).collect();
    names.extend(more);
    names
}

/// The consoles that the kernel writes to. `tty0` is whichever virtual terminal is shown; on ours that is the first.
fn kernel_consoles(root: &Path) -> Vec<String> {
    let active = sysfs::text(&root.join("sys/class/tty/console/active"), sysfs::LINE);
    active.split_whitespace().filter(|name| *name != "tty0").map(str::to_owned).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Text as it is; for a progress bar.
impl Write for &Consoles {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.show(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::pty::openpty;
    use std::fs::{create_dir_all, write};
    use std::io::Read;

    const LONG: Duration = Duration::from_secs(20);

    /// The person's side of a console.
    struct Person(File);

    impl Person {
        fn types(&mut self, text: &str) {
            self.0.write_all(text.as_bytes()).unwrap();
        }

        /// Reads until this was shown.
        fn sees(&mut self, text: &str) -> String {
            let (mut seen, mut buffer) = (String::new(), [0; 4096]);
            while !seen.contains(text) {
                let length = self.0.read(&mut buffer).unwrap();
                seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
            seen
        }
    }

    fn consoles(names: &[&str]) -> (Consoles, Vec<Person>) {
        let (mut terminals, mut people) = (Vec::new(), Vec::new());
        for name in names {
            let pair = openpty(None, None).unwrap();
            fcntl(&pair.slave, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            let tty = File::from(pair.slave);
            prepare(&tty, true).unwrap();
            terminals.push(((*name).to_owned(), tty));
            people.push(Person(File::from(pair.master)));
        }
        (Consoles::new(terminals), people)
    }

    #[test]
    fn consoles_are_the_screen_and_the_ports_that_are_there() {
        let root = tempfile::tempdir().unwrap();
        let class = root.path().join("sys/class/tty");
        for (name, kind) in [("ttyS0", "4"), ("ttyS1", "0"), ("ttyS2", "4"), ("tty1", ""), ("tty2", ""), ("ptmx", "")] {
            create_dir_all(class.join(name)).unwrap();
            write(class.join(name).join("type"), kind).unwrap();
        }
        create_dir_all(class.join("console")).unwrap();
        write(class.join("console/active"), "tty0 ttyS0 ttyAMA0\n").unwrap();
        assert_eq!(names(root.path()), ["tty1", "ttyS0", "ttyS2", "ttyAMA0"]);
        assert!(Consoles::open(root.path()).is_none());
    }

    #[test]
    fn all_show_the_same_and_the_first_answer_counts() {
        let (consoles, mut people) = consoles(&["tty1", "ttyS0"]);
        consoles.say("hello\n  there");
        for person in &mut people {
            assert_eq!(person.sees("there\r\n"), "hello\r\n  there\r\n");
        }
        people[0].types("half an answ");
        people[1].types("12\u{8}\n");
        assert_eq!(consoles.ask("Which? ", false, None).unwrap(), "1");
        let shown = people[0].sees("(answered");
        assert!(shown.contains("\rWhich? 1  (answered"), "{shown:?}");
        people[0].types("2\n");
        assert_eq!(consoles.ask("Again? ", false, None).unwrap(), "2", "what was begun is forgotten");
        assert_eq!(consoles.ask("Nobody? ", false, Some(Duration::from_millis(1))), None);
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        let (consoles, mut people) = consoles(&["tty1", "ttyS0"]);
        let mut typist = Person(people[1].0.try_clone().unwrap());
        let typing = thread::spawn(move || {
            let shown = typist.sees("Token: ");
            typist.types("s3cret\n");
            shown
        });
        assert_eq!(consoles.ask("Token: ", true, None).unwrap(), "s3cret");
        consoles.say("end");
        typing.join().unwrap();
        for person in &mut people {
            let shown = person.sees("end");
            assert!(!shown.contains("s3cret"), "{shown:?}");
        }
    }

    #[test]
    fn a_console_that_takes_nothing_holds_up_nobody() {
        let (consoles, mut people) = consoles(&["ttyS0", "ttyS1"]);
        let mut listener = people.remove(1);
        let listening = thread::spawn(move || listener.sees("the last line"));
        let begin = Instant::now();
        // Nobody reads the first one, and this is more than the kernel keeps and more than we do.
        for number in 0..4000 {
            consoles.say(&format!("line {number} of many that say nothing at all"));
            if number % 500 == 0 {
                consoles.screens[1].output.wait(Instant::now() + LONG);
            }
        }
        consoles.say("the last line");
        consoles.screens[1].output.wait(Instant::now() + LONG);
        assert!(listening.join().unwrap().contains("line 3999 "));
        assert!(lock(&consoles.screens[0].output.pending).bytes.len() <= BUFFER + 100);
        consoles.flush(Duration::from_millis(1));
        assert!(begin.elapsed() < LONG);
    }

    #[test]
    fn a_port_that_echoes_does_not_answer_and_one_that_is_gone_does_not_either() {
        let (consoles, mut people) = consoles(&["ttyS0", "ttyS1", "ttyS2"]);
        drop(people.pop());
        people[0].types("Which? \n");
        let mut person = people.remove(1);
        let typing = thread::spawn(move || {
            person.sees("not listened to");
            person.types("yes\n");
            person
        });
        assert_eq!(consoles.ask("Which? ", false, None).unwrap(), "yes");
        drop(typing.join().unwrap());
        drop(people);
        assert_eq!(consoles.ask("Which? ", false, None), None);
    }

    #[test]
    fn every_screen_of_24_rows_has_a_heading() {
        let mut page = Page {
            heading: BTreeMap::from([(Heading::System, "RancherOS 0.1.0 installer".into())]),
            ..Page::default()
        };
        let shown: String =
            (0..100).map(|number| page.compose(&format!("{number}\n{}", "x".repeat(number % 160)))).collect();
        let mut lines: Vec<&str> = Vec::new();
        for line in shown.lines() {
            assert!(line.chars().count() <= 159, "{line}");
            lines.extend(std::iter::repeat_n(line, rows(line)));
        }
        for (first, screen) in lines.windows(24).enumerate() {
            assert!(screen.iter().any(|line| line.starts_with("--- RancherOS 0.1.0")), "from {first}: {screen:?}");
        }
        assert_eq!(heading(&BTreeMap::from([(Heading::Machine, "x".repeat(100))])).trim_end().len(), 79);
    }
}
