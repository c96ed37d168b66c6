//! Whose turn it is in a roll-out in which machines upgrade themselves. Values in, values out.
//!
//! Nothing is remembered but what the inventories say, so a restart of the operator changes no decision. A turn that the
//! machine was not told yet holds a place as well: its machine may be told at any moment.

pub mod verdict;

use super::Running;
use super::progress::Phase;
use super::windows::Windows;
use crate::inventory::upgrade::{DEADLINE, UNKNOWN_AFTER, is_open, told_again_at};
use api::UpgradeTurn;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::cmp::Reverse;

/// Seconds in which a machine whose turn it is must report. Long enough for three reports.
const TURN: i64 = UNKNOWN_AFTER;
/// Seconds by which the clocks of two replicas may differ.
const SKEW: i64 = 60;
/// Seconds after which a machine that is well has reported.
const REPORTED_WITHIN: i64 = 400;

/// A machine of the roll-out.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub name: String,
    /// What it runs, compared with the release of the roll-out.
    pub running: Running,
    /// When it was last heard of, in seconds since 1970.
    pub last_seen: i64,
    /// Its turn for what is to run now.
    pub turn: Option<UpgradeTurn>,
    /// The release that it is told to run by an order before this one, as long as it works on that.
    pub earlier: Option<EarlierTurn>,
    /// Why it gets no turn.
    pub hindrance: Option<String>,
}

/// A turn for what was to run before. The machine may restart at any moment, so that it holds its place.
#[derive(Clone, Debug)]
pub struct EarlierTurn {
    pub turn: UpgradeTurn,
    /// What the machine runs, compared with the release of that turn.
    pub running: Running,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Machines in flight, at most. 0 pauses.
    pub concurrency: usize,
    /// Machines that may fail before no further one is begun.
    pub max_failures: usize,
    /// Failures of those that are not among the places any more.
    pub failed_before: usize,
    pub windows: &'a Windows,
}

/// Why no machine is begun now, though some wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Paused,
    Failures,
    WindowClosed,
}

/// Where a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub phase: Phase,
    pub reason: String,
    /// Whether it counts among those that `concurrency` limits.
    pub in_flight: bool,
}

/// The decision on all machines.
#[derive(Clone, Debug)]
pub struct Turns {
    /// In the order of the candidates.
    pub places: Vec<Place>,
    /// The candidates whose turn begins now. Their places say so already.
    pub begin: Vec<usize>,
    /// When the turns that begin now end, unless the machine is told before.
    pub until: Time,
    /// The candidates whose turn is withdrawn. They were not told yet.
    pub withdraw: Vec<usize>,
    pub hold: Option<Hold>,
    /// Seconds after which time alone may change the decision.
    pub look_again: Option<i64>,
}

/// Who begins, of those that wait.
#[derive(Clone, Debug)]
pub struct Begin {
    pub begin: Vec<usize>,
    /// The others. Their places say why they wait.
    pub later: Vec<usize>,
    pub hold: Option<Hold>,
    /// Seconds until the window closes, at most `TURN`.
    left: i64,
}

/// Lets as many begin as the limits allow. `waiting`: those that would, in their order.
pub fn begin(places: &mut [Place], mut waiting: Vec<usize>, limits: &Limits<'_>, now: i64) -> Begin {
    let failed = places.iter().filter(|place| place.phase == Phase::Failed).count() + limits.failed_before;
    let in_flight = places.iter().filter(|place| place.in_flight).count();
    let left = limits.windows.open_for(now, TURN);
    let hold = match () {
        () if limits.concurrency == 0 => Some(Hold::Paused),
        () if failed > limits.max_failures => Some(Hold::Failures),
        () if left == 0 => Some(Hold::WindowClosed),
        () => None,
    };
    let free = if hold.is_some() { 0 } else { limits.concurrency.saturating_sub(in_flight) };
    let later = waiting.split_off(free.min(waiting.len()));
    for &at in &later {
        places[at].reason = why(hold, failed, limits);
    }
    Begin { begin: waiting, later, hold, left }
}

pub fn decide(machines: &[Candidate], limits: &Limits<'_>, now: i64) -> Turns {
    let mut places: Vec<Place> = machines.iter().map(|machine| place(machine, now)).collect();
    let in_flight = places.iter().filter(|place| place.in_flight).count();
    let mut waiting: Vec<usize> =
        (0..machines.len()).filter(|&at| may_begin(&machines[at], &places[at], now)).collect();
    // First those whose next report is nearest: the one heard of longest ago, unless it should have reported by now.
    waiting.sort_by_key(|&at| {
        let age = now - machines[at].last_seen;
        (age > REPORTED_WITHIN, Reverse(age), machines[at].name.clone())
    });
    let Begin { begin, later, hold, left } = begin(&mut places, waiting, limits, now);
    for &at in &begin {
        places[at] = told_next();
    }
    let surplus = if hold.is_some() { in_flight } else { in_flight.saturating_sub(limits.concurrency) };
    let untold = (0..machines.len()).filter(|&at| is_untold(&machines[at], now));
    let withdraw: Vec<usize> = untold.take(surplus).collect();
    let times = machines.iter().flat_map(|machine| times(machine, now));
    let look_again = times.chain((!later.is_empty()).then_some(60)).min();
    let until = Time(Timestamp::from_second(now + left).unwrap_or(Timestamp::MAX));
    Turns { places, begin, until, withdraw, hold: hold.filter(|_| !later.is_empty()), look_again }
}

fn why(hold: Option<Hold>, failed: usize, limits: &Limits<'_>) -> String {
    match hold {
        Some(Hold::Paused) => "spec.concurrency is 0".to_owned(),
        Some(Hold::Failures) => {
            let most = limits.max_failures;
            format!("{failed} failed, and spec.maxFailures is {most}: no further one is begun")
        }
        Some(Hold::WindowClosed) => "no window is open".to_owned(),
        None => format!("spec.concurrency is {}; it waits for its turn", limits.concurrency),
    }
}

/// Where a machine is by itself, before anybody's turn begins.
fn place(machine: &Candidate, now: i64) -> Place {
    let at = |phase, reason: &str| Place { phase, reason: reason.to_owned(), in_flight: false };
    let in_flight = |phase, reason: &str| Place { in_flight: true, ..at(phase, reason) };
    let unknown = || at(Phase::Unknown, "it has missed three reports");
    let silent = is_silent(machine, now);
    if let Some(EarlierTurn { turn, running }) = &machine.earlier
        && turn.told.is_some()
        && is_open(turn, &Time(Timestamp::from_second(now).unwrap_or(Timestamp::MAX)))
        && *running != Running::Healthy
    {
        let text = format!("it works on release {}, which it was told before", turn.release);
        return if silent { unknown() } else { in_flight(Phase::Upgrading, &text) };
    }
    if machine.running == Running::Healthy {
        return at(Phase::Done, "");
    }
    if let Some(turn) = &machine.turn {
        if let Some(failure) = &turn.failure {
            let text = format!("{}: {}", failure.reason, failure.message);
            return match told_again_at(turn) {
                Some(_) if silent => unknown(),
                // Nothing was written, and the release is not to blame: it holds no place, and stops nobody.
                Some(_) => at(Phase::Waiting, &format!("it is told again: {text}")),
                None => at(Phase::Failed, &text),
            };
        }
        if let Some(told) = turn.told.as_ref().filter(|_| !turn.lapsed) {
            let minutes = (now - seconds(told)) / 60;
            return match machine.running {
                _ if silent => unknown(),
                Running::Recovery => at(Phase::Failed, "it runs the recovery system; its console says why"),
                _ if now - seconds(told) >= DEADLINE && machine.running == Running::Unproven => {
                    at(Phase::Failed, "NotHealthy: it runs the release, which is not healthy in time")
                }
                _ if now - seconds(told) >= DEADLINE => at(
                    Phase::Failed,
                    &format!("NotUpgraded: it was told {minutes} minutes ago, and runs another release"),
                ),
                Running::Unproven => in_flight(Phase::Proving, "it runs the release, which is not healthy yet"),
                _ => in_flight(Phase::Upgrading, "it was told"),
            };
        }
        if is_untold(machine, now) {
            return if silent { unknown() } else { told_next() };
        }
    }
    match machine.running {
        _ if silent => unknown(),
        Running::Recovery => at(Phase::Waiting, "it runs the recovery system; its console says why"),
        Running::Unproven => {
            // One that was not told so lately, but by hand, holds no place: it may stay like this for ever.
            let told = machine.turn.as_ref().and_then(|turn| turn.told.as_ref());
            let lately = told.is_some_and(|told| now - seconds(told) < DEADLINE);
            Place { in_flight: lately, ..at(Phase::Proving, "it runs the release, which is not healthy yet") }
        }
        _ => at(Phase::Waiting, machine.hindrance.as_deref().unwrap_or_default()),
    }
}

fn told_next() -> Place {
    Place { phase: Phase::Upgrading, reason: "it is told with its next report".to_owned(), in_flight: true }
}

/// Whether the machine would begin if a place were free.
fn may_begin(machine: &Candidate, place: &Place, now: i64) -> bool {
    let rests = machine.turn.as_ref().and_then(told_again_at).is_some_and(|at| now < at);
    place.phase == Phase::Waiting && machine.hindrance.is_none() && machine.running == Running::Another && !rests
}

/// Whether it may be told at any moment.
fn is_untold(machine: &Candidate, now: i64) -> bool {
    machine.turn.as_ref().is_some_and(|turn| {
        turn.told.is_none() && !turn.lapsed && turn.failure.is_none() && now < seconds(&turn.until) + SKEW
    }) && machine.running == Running::Another
}

fn is_silent(machine: &Candidate, now: i64) -> bool {
    now - machine.last_seen > UNKNOWN_AFTER + SKEW
}

/// Seconds until time alone changes the place of a machine.
fn times(machine: &Candidate, now: i64) -> impl Iterator<Item = i64> {
    let turn = machine.turn.as_ref().filter(|_| machine.running != Running::Healthy);
    let ends = turn.map(|turn| match &turn.told {
        Some(told) => told_again_at(turn).unwrap_or(seconds(told) + DEADLINE),
        None => seconds(&turn.until) + SKEW,
    });
    let silent = turn.map(|_| machine.last_seen + UNKNOWN_AFTER + SKEW + 1);
    ends.into_iter().chain(silent).map(move |at| at - now).filter(|left| *left > 0)
}

fn seconds(time: &Time) -> i64 {
    time.0.as_second()
}

#[cfg(test)]
mod tests;
