//! The end of a trial boot that did not come up: a restart, after which GRUB starts the same slot or another one.

use crate::boot::state_file;
use crate::console::announce;
use crate::installed::healthy::HealthyError;
use boot_contract::boot_state::SlotState;
use boot_contract::{BootState, Milestone, Slot};
use command::{Command, CommandError};
use machine::Boot;
use protocol::message;
use std::path::Path;
use std::time::Duration;

/// Units that a message names at most.
const NAMED_UNITS: usize = 5;
/// The time in which systemd must answer a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The time in which systemd must accept an orderly restart.
const RESTART_LIMIT: Duration = Duration::from_secs(60);

/// What `ros-trial.timer` does: if the slot is still on trial and the other slot holds a system, the machine restarts.
/// [`super::healthy`] cannot do so where a unit that it comes after never ends.
pub fn end() -> Result<(), HealthyError> {
    let slot = running_slot()?;
    if is_given_up(&state_file::current()?, slot) {
        let (system, jobs) = (ask(&["is-system-running"]), ask(&["list-jobs", "--no-legend", "--no-pager"]));
        announce(Milestone::Failed, format!("slot {slot} did not come up in time: {}", stage(&system, &jobs)));
    }
    restart_if_on_trial(slot)
}

/// What systemd answers, or nothing where it does not: the restart must not depend on it.
fn ask(arguments: &[&str]) -> String {
    let answer = Command::new("systemctl").args(arguments).run_within(ANSWER_LIMIT);
    answer.map(|outcome| String::from_utf8_lossy(&outcome.output_end).into_owned()).unwrap_or_default()
}

/// The slot of the running system.
pub fn running_slot() -> Result<Slot, HealthyError> {
    Boot::probe(Path::new("/")).slot.and_then(message::Slot::installed).ok_or(HealthyError::NotInstalled)
}

/// Restarts only from a slot on trial. A system that has worked before is left for repair: another slot may be no
/// better, and somebody may be logged in.
pub fn restart_if_on_trial(slot: Slot) -> Result<(), HealthyError> {
    if is_given_up(&state_file::current()?, slot) {
        announce(Milestone::Rebooting, format!("slot {slot} is on trial and the other slot holds a system"));
        restart()?;
    }
    Ok(())
}

/// Ends the trial of a slot that will not come up, whatever starts it has left. Returns whether the machine restarts: a
/// slot that is not on trial, or that nothing can take the place of, goes on waiting.
pub fn fail(slot: Slot, reason: &str) -> Result<bool, HealthyError> {
    if !is_given_up(&state_file::current()?, slot) {
        return Ok(false);
    }
    announce(Milestone::Failed, format!("slot {slot} has failed: {reason}"));
    state_file::change(|state| state.fail(slot))?;
    announce(Milestone::Rebooting, format!("slot {slot} is on trial and the other slot holds a system"));
    restart()?;
    Ok(true)
}

/// An orderly restart, or one that stops no service first where systemd does not accept it, as in a start-up that hangs.
fn restart() -> Result<(), CommandError> {
    let orderly = Command::new("systemctl").arg("reboot").run_within(RESTART_LIMIT);
    if !orderly.is_ok_and(|outcome| outcome.status.is_some_and(|status| status.success())) {
        Command::new("systemctl").args(["reboot", "--force"]).run()?;
    }
    Ok(())
}

fn is_given_up(state: &BootState, slot: Slot) -> bool {
    let is_on_trial = state.slot(slot).is_some_and(|boot| boot.state == SlotState::Trial);
    is_on_trial && state.active == slot && other_slot_may_start(state, slot)
}

pub fn other_slot_may_start(state: &BootState, slot: Slot) -> bool {
    [Slot::A, Slot::B].into_iter().any(|other| other != slot && state.slot(other).is_some_and(|boot| boot.may_start()))
}

/// What the start-up waits for, from the outputs of `systemctl is-system-running` and `systemctl list-jobs`.
fn stage(system: &str, jobs: &str) -> String {
    let running = jobs.lines().filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, unit, _, "running"] => Some(unit),
        _ => None,
    });
    let units: Vec<&str> = running.take(NAMED_UNITS).collect();
    let system = match system.trim() {
        "" => "systemd does not answer".to_owned(),
        system => format!("the system is {system}"),
    };
    if units.is_empty() { system } else { format!("{system} and waits for {}", units.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installed::healthy::PATIENCE;
    use boot_contract::boot_state::SlotBoot;

    #[test]
    fn only_a_slot_on_trial_beside_another_system_restarts_the_machine() {
        let (trial, good) = (SlotBoot::new(SlotState::Trial), SlotBoot::new(SlotState::Good));
        let upgraded = BootState { a: good, b: trial, active: Slot::B, ..BootState::INSTALLED };
        assert!(is_given_up(&upgraded, Slot::B));
        assert!(!is_given_up(&upgraded, Slot::A), "it has been good");
        assert!(!is_given_up(&BootState::INSTALLED, Slot::A), "there is no other");
        let failed = BootState { a: SlotBoot::new(SlotState::Failed), ..upgraded };
        assert!(!is_given_up(&failed, Slot::B), "the other one failed");
    }

    #[test]
    fn a_start_that_hangs_says_which_units_it_waits_for() {
        let jobs = "101 sysinit.target start waiting\n 45 ros-apply.service start running\n";
        assert_eq!(stage("starting\n", jobs), "the system is starting and waits for ros-apply.service");
        assert_eq!(stage("running\n", "No jobs running.\n"), "the system is running");
        assert_eq!(stage("", ""), "systemd does not answer");
    }

    #[test]
    fn a_system_that_has_started_has_its_whole_time_before_the_timer_ends_the_trial() {
        let timer = include_str!("../../../overlay/usr/lib/systemd/system/ros-trial.timer");
        let minutes = timer.lines().find_map(|line| line.strip_prefix("OnStartupSec=")?.strip_suffix("min")).unwrap();
        assert!(Duration::from_secs(60 * minutes.parse::<u64>().unwrap()) > PATIENCE);
    }
}
