//! All consoles of a machine: its screen and its serial ports. Output and questions appear on each of them. Each
//! console has a bounded buffer and a thread that writes it, so that a slow one delays nothing.

mod input;
mod page;
mod screen;

use input::first_line;
use machine::consoles::{kernel_consoles, names};
use nix::sys::termios::{FlushArg, LocalFlags, SetArg, tcflush, tcgetattr, tcsetattr};
pub use page::Heading;
use page::{Page, rows};
use screen::{Screen, prepare};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// All consoles.
pub struct Consoles {
    screens: Vec<Screen>,
    page: Mutex<Page>,
}

impl Consoles {
    /// Opens all consoles of the machine. `None` if it has none.
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

    /// Takes terminals with their names. They must be open without blocking.
    fn new(terminals: Vec<(String, File)>) -> Self {
        let screens = terminals.into_iter().map(|(name, tty)| Screen::begin(name, tty)).collect();
        Self { screens, page: Mutex::default() }
    }

    /// Sets a part of the heading, the line that is repeated above other lines.
    pub fn head(&self, part: Heading, text: &str) {
        lock(&self.page).heading.insert(part, text.to_owned());
    }

    /// Shows whole lines. They start on a new line, even if a progress bar or a question is open.
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

    /// Asks on all consoles. The first answer is used, and the other consoles show it, unless it is secret. `None` if
    /// there was no answer within `patience`, or if no console is left.
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
                // A port that is looped back, or whose other end repeats its input, would answer every question.
                listening.retain(|(other, _)| other.name != screen.name);
                self.say(&format!("{} echoes its output, so its input is ignored.", screen.name));
                self.show(prompt);
            }
        };
        let (answered, answer) = answer;
        let shown = if is_secret { "" } else { answer.as_str() };
        for other in self.screens.iter().filter(|screen| screen.name != answered.name) {
            // Input that was begun on other consoles must not answer the next question.
            let _ = tcflush(&*other.tty, FlushArg::TCIFLUSH);
            other.output.push(format!("\r{prompt}{shown}  (answered on {})\x1b[K\n", answered.name).as_bytes());
        }
        self.echo(true);
        // The Enter that ended the answer also ended the line.
        let mut page = lock(&self.page);
        page.line_is_open = false;
        page.rows_since_heading += rows(prompt);
        Some(answer)
    }

    /// Waits until all output is written to the consoles that accept it, but at most for `limit`.
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes text as it is, for a progress bar.
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
    use super::screen::BUFFER;
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::pty::openpty;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::thread;

    const LONG: Duration = Duration::from_secs(20);

    /// The other end of a console, where a person types and reads.
    struct Person(File);

    impl Person {
        fn types(&mut self, text: &str) {
            self.0.write_all(text.as_bytes()).unwrap();
        }

        /// Reads until this text was shown.
        fn sees(&mut self, text: &str) -> String {
            let (mut seen, mut buffer) = (String::new(), [0; 4096]);
            while !seen.contains(text) {
                let mut readable = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut readable, PollTimeout::try_from(LONG).unwrap()).unwrap();
                assert!(ready > 0, "{text:?} did not appear: {seen:?}");
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
    fn a_machine_whose_ports_cannot_be_opened_has_no_consoles() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("sys/class/tty/tty1")).unwrap();
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
    fn a_blocked_console_does_not_delay_the_others() {
        let (consoles, mut people) = consoles(&["ttyS0", "ttyS1"]);
        let mut listener = people.remove(1);
        let listening = thread::spawn(move || listener.sees("the last line"));
        let begin = Instant::now();
        // The first console is not read, and the text is more than the kernel's buffer and ours.
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
            person.sees("its input is ignored");
            person.types("yes\n");
            person
        });
        assert_eq!(consoles.ask("Which? ", false, Some(LONG)).unwrap(), "yes");
        drop(typing.join().unwrap());
        drop(people);
        assert_eq!(consoles.ask("Which? ", false, None), None);
    }
}
