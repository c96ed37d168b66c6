//! The state of one transfer: what to send next. Pure functions of the client's packets.

use std::ops::Range;
use std::time::Duration;

use super::packet::{Options, Reply};

/// Without the option `blksize`.
const DEFAULT_BLOCK: u64 = 512;
/// A block, its header and those of UDP and IP fill an Ethernet frame.
const LARGEST_BLOCK: u64 = 1468;
const SMALLEST_BLOCK: u64 = 8;
const LARGEST_WINDOW: u64 = 16;
/// After so many seconds without an answer the server sends again, unless the client asks for another time.
const PATIENCE: u64 = 1;
const LONGEST_PATIENCE: u64 = 10;
/// The server sends so many times without an answer, then it gives up. It waits twice as long each time: GRUB opens all
/// archives of the initrd at once, and answers for the second one when it has the first one.
const ATTEMPTS: u32 = 6;
const LONGEST_WAIT: Duration = Duration::from_secs(32);

/// A transfer that has begun.
#[derive(Clone, Debug)]
pub struct Transfer {
    size: u64,
    block_size: u64,
    window: u64,
    patience: Duration,
    /// The options that the server takes, until the client has acknowledged them.
    offered: Vec<(&'static str, u64)>,
    /// Blocks of which the client has said that it has them.
    acknowledged: u64,
    attempts: u32,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends the options.
    Offer(Vec<(&'static str, u64)>),
    /// Sends these blocks.
    Send(Range<u64>),
    /// Waits for another packet.
    Wait,
    /// The client has everything.
    Done,
    /// The client has ended the transfer.
    Ended,
    /// The client does not answer.
    Lost,
}

impl Transfer {
    /// `size`: of the file, in bytes.
    pub fn new(size: u64, options: &Options) -> Self {
        let mut offered = Vec::new();
        let mut take = |name, asked: Option<u64>, least: u64, most: u64| {
            let taken = asked.filter(|asked| *asked >= least).map(|asked| asked.min(most));
            offered.extend(taken.map(|taken| (name, taken)));
            taken
        };
        let block_size = take("blksize", options.block_size, SMALLEST_BLOCK, LARGEST_BLOCK).unwrap_or(DEFAULT_BLOCK);
        let window = take("windowsize", options.window, 1, LARGEST_WINDOW).unwrap_or(1);
        // A server takes the time as it is, or not at all (RFC 2349).
        let asked = options.timeout.filter(|asked| *asked <= LONGEST_PATIENCE);
        let patience = Duration::from_secs(take("timeout", asked, 1, LONGEST_PATIENCE).unwrap_or(PATIENCE));
        take("tsize", options.wants_size.then_some(size), 0, u64::MAX);
        Self { size, block_size, window, patience, offered, acknowledged: 0, attempts: 1 }
    }

    /// What is to be sent first.
    pub fn begin(&self) -> Step {
        if self.offered.is_empty() { self.send() } else { Step::Offer(self.offered.clone()) }
    }

    /// How long to wait for a packet before [`time_out`](Self::time_out).
    pub fn patience(&self) -> Duration {
        (self.patience * 2_u32.pow(self.attempts - 1)).min(LONGEST_WAIT)
    }

    pub fn receive(&mut self, reply: Reply) -> Step {
        let Reply::Acknowledged(number) = reply else { return Step::Ended };
        if !self.offered.is_empty() {
            if number != 0 {
                return Step::Wait;
            }
            self.offered.clear();
        } else {
            // Numbers begin again at 0 after 65,535. An old one is not answered: each answer would double (RFC 1123, 4.2.3.1).
            let more = u64::from(number.wrapping_sub(self.acknowledged as u16));
            if more == 0 || more > self.in_flight().end - self.acknowledged {
                return Step::Wait;
            }
            self.acknowledged += more;
        }
        self.attempts = 1;
        if self.acknowledged == self.blocks() { Step::Done } else { self.send() }
    }

    /// Nothing came for the time of [`patience`](Self::patience).
    pub fn time_out(&mut self) -> Step {
        if self.attempts == ATTEMPTS {
            return Step::Lost;
        }
        self.attempts += 1;
        self.begin()
    }

    /// The number of a block in its packet, and its bytes of the file.
    pub fn block(&self, index: u64) -> (u16, Range<u64>) {
        let begin = (index * self.block_size).min(self.size);
        ((index + 1) as u16, begin..(begin + self.block_size).min(self.size))
    }

    fn send(&self) -> Step {
        Step::Send(self.in_flight())
    }

    /// The blocks that may be sent before the client answers.
    fn in_flight(&self) -> Range<u64> {
        self.acknowledged..(self.acknowledged + self.window).min(self.blocks())
    }

    /// The last one is shorter than the others, so that the client knows it.
    fn blocks(&self) -> u64 {
        self.size / self.block_size + 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet;
    use super::*;
    use proptest::prelude::*;

    fn options(block_size: u64, window: u64) -> Options {
        Options { block_size: Some(block_size), window: Some(window), ..Options::default() }
    }

    #[test]
    fn a_client_without_options_gets_512_bytes_at_a_time() {
        let mut transfer = Transfer::new(1024, &Options::default());
        assert_eq!(transfer.begin(), Step::Send(0..1));
        assert_eq!(transfer.block(0), (1, 0..512));
        assert_eq!(transfer.receive(Reply::Acknowledged(1)), Step::Send(1..2));
        // An answer that came twice, and those of another transfer.
        for number in [1, 0, 3, 65535] {
            assert_eq!(transfer.receive(Reply::Acknowledged(number)), Step::Wait, "{number}");
        }
        assert_eq!(transfer.receive(Reply::Acknowledged(2)), Step::Send(2..3));
        assert_eq!(transfer.block(2), (3, 1024..1024));
        assert_eq!(transfer.receive(Reply::Acknowledged(3)), Step::Done);
    }

    #[test]
    fn options_are_taken_within_limits() {
        let asked = Options { block_size: Some(65464), timeout: Some(5), wants_size: true, window: Some(65535) };
        let mut transfer = Transfer::new(9, &asked);
        let offer = Step::Offer(vec![("blksize", 1468), ("windowsize", 16), ("timeout", 5), ("tsize", 9)]);
        assert_eq!((transfer.begin(), transfer.patience()), (offer.clone(), Duration::from_secs(5)));
        assert_eq!((transfer.receive(Reply::Acknowledged(7)), transfer.time_out()), (Step::Wait, offer));
        assert_eq!(transfer.receive(Reply::Acknowledged(0)), Step::Send(0..1));
        let odd = Options { block_size: Some(7), timeout: Some(255), wants_size: false, window: Some(0) };
        assert_eq!(Transfer::new(9, &odd).begin(), Step::Send(0..1));
    }

    #[test]
    fn a_client_that_only_wanted_the_size_ends_the_transfer() {
        let mut transfer = Transfer::new(9, &Options { wants_size: true, ..Options::default() });
        assert_eq!(transfer.begin(), Step::Offer(vec![("tsize", 9)]));
        assert_eq!(transfer.receive(Reply::Failed), Step::Ended);
    }

    #[test]
    fn a_client_that_does_not_answer_is_given_up() {
        let mut transfer = Transfer::new(9, &Options::default());
        for seconds in [1, 2, 4, 8, 16] {
            assert_eq!(transfer.patience(), Duration::from_secs(seconds));
            assert_eq!(transfer.time_out(), Step::Send(0..1));
        }
        assert_eq!((transfer.patience(), transfer.time_out()), (LONGEST_WAIT, Step::Lost));
    }

    proptest! {
        /// A client as RFC 7440 describes it, on a network that loses packets, has the whole file in the end.
        #[test]
        fn every_byte_arrives_once_and_in_order(
            size in 0u64..4000, block_size in 8u64..600, window in 1u64..40, losses in proptest::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut transfer = Transfer::new(size, &options(block_size, window));
            let mut losses = losses.into_iter();
            let mut lost = || losses.next().unwrap_or(false);
            let (mut received, mut expected) = (0, 1_u16);
            let mut step = transfer.begin();
            let mut failures = 0;
            loop {
                let reply = match step {
                    Step::Offer(_) => (!lost()).then_some(0),
                    Step::Send(ref blocks) => {
                        let mut heard = false;
                        for block in blocks.clone() {
                            if lost() { continue }
                            heard = true;
                            let (number, bytes) = transfer.block(block);
                            if number == expected {
                                prop_assert_eq!(bytes.start, received);
                                (received, expected) = (bytes.end, expected.wrapping_add(1));
                            }
                        }
                        heard.then_some(expected.wrapping_sub(1))
                    }
                    Step::Done => break,
                    Step::Lost => { failures += 1; break }
                    Step::Wait => None,
                    Step::Ended => unreachable!(),
                };
                step = match reply {
                    Some(number) => transfer.receive(Reply::Acknowledged(number)),
                    None => transfer.time_out(),
                };
            }
            prop_assert!(failures > 0 || received == size);
        }

        #[test]
        fn any_packets_leave_it_within_the_file(
            size in 0u64..200_000, block_size in 0u64..2000, window in 0u64..40,
            packets in proptest::collection::vec((any::<bool>(), 0u16..400), 0..60),
        ) {
            let mut transfer = Transfer::new(size, &options(block_size, window));
            for (late, number) in packets {
                let step = if late { transfer.time_out() } else { transfer.receive(Reply::Acknowledged(number)) };
                if matches!(step, Step::Done | Step::Lost) {
                    break;
                }
                if let Step::Send(blocks) = step {
                    prop_assert!(!blocks.is_empty() && blocks.end - blocks.start <= LARGEST_WINDOW);
                    for block in blocks {
                        let (_, bytes) = transfer.block(block);
                        prop_assert!(bytes.start <= bytes.end && bytes.end <= size);
                        prop_assert!(packet::data(0, &vec![0; (bytes.end - bytes.start) as usize]).len() <= 1472);
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_of_blocks_begin_again() {
        let mut transfer = Transfer::new(70_000 * 8, &options(8, 1));
        let mut step = transfer.receive(Reply::Acknowledged(0));
        for block in 0_u64.. {
            let Step::Send(blocks) = step else { break };
            assert_eq!(blocks, block..block + 1);
            step = transfer.receive(Reply::Acknowledged((block + 1) as u16));
        }
        assert_eq!(transfer.acknowledged, 70_001);
    }
}
