//! `upgrade`: writes a release to the other slot and makes it the one that is started next.

use super::operator;
use crate::cli::{Output, UpgradeOptions};
use crate::console::{self, announce, progress_output, with_progress};
use crate::exit_code::ExitCode;
use crate::settings::document::INSTALLED_FILE;
use crate::upgrade::order::{self, OrderError, TakenOrder};
use crate::upgrade::{self, Candidate, Decision, FetchLimits, Image, ReleaseName, Slots, UpgradeError, UpgradeLock};
use anyhow::Context;
use boot_contract::{Milestone, Slot};
use command::Command;
use protocol::{RequestText, UpgradeOrder, error_chain};
use registry::Proxy;
use release::signature::Trust;
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

pub async fn run(options: &UpgradeOptions) -> anyhow::Result<()> {
    let _lock = UpgradeLock::take()?.context("another upgrade runs on this machine: wait for it")?;
    if options.recovery {
        return upgrade_recovery(options).map_err(|error| ExitCode::from(&error).with(error))?;
    }
    let proxy = installed_proxy(Path::new("/"))?;
    let outcome = if options.ordered { ordered(options, proxy).await } else { upgrade(options, proxy, None).await };
    let upgrade = outcome.map_err(|error| ExitCode::from(&error).with(error))?;
    if options.check {
        return print(options.output, &upgrade, would(upgrade.decision));
    }
    print(options.output, &upgrade, did(upgrade.decision))?;
    let restarts = !matches!(upgrade.decision, Decision::Runs | Decision::StartRunning);
    if options.reboot && restarts {
        tell(options, Milestone::Rebooting, format!("into release {}", upgrade.release.version));
        Command::new("systemctl").args(["--no-block", "reboot"]).run().context("restarting")?;
    }
    Ok(())
}

/// Makes the recovery system a copy of the running one. The inner result is that of printing.
fn upgrade_recovery(options: &UpgradeOptions) -> Result<anyhow::Result<()>, UpgradeError> {
    let plan = upgrade::plan_recovery(&upgrade::slots()?)?;
    let ReleaseName { version, digest } = &plan.release;
    let text = if plan.is_held {
        "is the recovery system already; there is nothing to do"
    } else if options.check {
        "would become the recovery system"
    } else {
        tell(options, Milestone::Planned, format!("release {version} as the recovery system"));
        let written = with_progress(output(options), |show| upgrade::write_recovery(&plan, show))?;
        tell(options, Milestone::Verified, format!("release {version}: {written}"));
        "is the recovery system"
    };
    let is_written = !plan.is_held && !options.check;
    Ok(match options.output {
        Output::Text => console::print(format!("release {version} ({digest}): {text}")),
        Output::Json => {
            let value = json!({"version": version, "release": digest, "written": is_written, "message": text});
            console::print(format!("{value:#}"))
        }
    }
    .map_err(anyhow::Error::from))
}

/// A release, and what was decided.
struct Upgrade {
    release: ReleaseName,
    /// Who signed it. `None` if it was not fetched, because this machine has it already.
    trust: Option<Trust>,
    decision: Decision,
}

/// Carries out the operator's order. A failure is kept for the operator.
async fn ordered(options: &UpgradeOptions, proxy: Option<Proxy>) -> Result<Upgrade, UpgradeError> {
    let root = Path::new("/");
    let order = TakenOrder::read(root)?.ok_or(OrderError::Absent)?.order;
    let (image, retry) = (Some(order.image.clone()), options.retry || order.retry.is_some());
    let options = UpgradeOptions { image, retry, ..options.clone() };
    let outcome = upgrade(&options, proxy, Some(&order)).await;
    if let Err(error) = &outcome
        && let Err(lost) = order::fail(root, error.reason(), error)
    {
        tracing::warn!("{}", error_chain(&lost));
    }
    outcome
}

/// The proxy that this system was installed with.
fn installed_proxy(root: &Path) -> anyhow::Result<Option<Proxy>> {
    operator::proxy(operator::installed(root, &root.join(INSTALLED_FILE))?.settings())
}

/// `order` names the release that is expected.
async fn upgrade(
    options: &UpgradeOptions,
    proxy: Option<Proxy>,
    order: Option<&UpgradeOrder>,
) -> Result<Upgrade, UpgradeError> {
    let slots = upgrade::slots()?;
    let Some(image) = &options.image else {
        let folder = options.release.clone().unwrap_or_default();
        return from_folder(options, &slots, &folder, order);
    };
    let limits = if order.is_some() { FetchLimits::ORDERED } else { FetchLimits::BY_HAND };
    let image = Image::new(image, options.registries.as_deref(), options.plain_http, proxy, limits)?;
    let mut say = |text| console::note(text);
    if let Some(held) = image.release(&mut say).await?.and_then(|digest| slots.held(&digest)) {
        check_order(order, &held)?;
        // A release that a slot holds is not fetched again, unless it has to be written again.
        let decision = slots.decide(&held, options.retry)?;
        if !matches!(decision, Decision::Write(_)) {
            if !options.check {
                upgrade::choose(&slots, decision)?;
            }
            return Ok(Upgrade { release: held, trust: None, decision });
        }
    }
    console::note(format!("fetching {image}"));
    let outcome = match image.fetch(&mut say).await {
        Ok(()) => from_folder(options, &slots, Path::new(Image::FOLDER), order),
        Err(error) => Err(error),
    };
    let is_useless = match &outcome {
        Ok(_) => !options.check,
        Err(error) => error.is_about_the_release(),
    };
    if is_useless {
        image.remove();
    }
    outcome
}

/// A tag may lead to another release than the one that the operator counts.
fn check_order(order: Option<&UpgradeOrder>, found: &ReleaseName) -> Result<(), UpgradeError> {
    match order {
        Some(order) if !order.expects(&found.version, &found.digest) => {
            let (expected, found) = (order.release.clone(), found.version.clone());
            Err(UpgradeError::OtherRelease { image: order.image.clone(), expected, found })
        }
        _ => Ok(()),
    }
}

fn from_folder(
    options: &UpgradeOptions,
    slots: &Slots,
    folder: &Path,
    order: Option<&UpgradeOrder>,
) -> Result<Upgrade, UpgradeError> {
    let candidate = Candidate::open(folder)?;
    check_order(order, candidate.name())?;
    let decision = slots.decide(candidate.name(), options.retry)?;
    candidate.check()?;
    candidate.note_trust();
    if !options.check {
        let retry = order.and_then(|order| order.retry.as_ref()?.parse().ok());
        carry_out(options, slots, decision, retry, &candidate)?;
    }
    Ok(Upgrade { release: candidate.name().clone(), trust: Some(candidate.trust().clone()), decision })
}

fn carry_out(
    options: &UpgradeOptions,
    slots: &Slots,
    decision: Decision,
    retry: Option<RequestText>,
    candidate: &Candidate,
) -> Result<(), UpgradeError> {
    candidate.carry_out(slots, decision, retry, output(options), |milestone, text| tell(options, milestone, text))
}

/// The output for progress, and whether it is a terminal. JSON has stdout for itself.
fn output(options: &UpgradeOptions) -> (Box<dyn Write>, bool) {
    match options.output {
        Output::Text => progress_output(),
        Output::Json => (Box::new(io::stderr()), io::stderr().is_terminal()),
    }
}

/// Announces a milestone. JSON has stdout for itself.
fn tell(options: &UpgradeOptions, milestone: Milestone, text: String) {
    match options.output {
        Output::Text => announce(milestone, text),
        Output::Json => console::note(text),
    }
}

fn print(output: Output, upgrade: &Upgrade, text: String) -> anyhow::Result<()> {
    let ReleaseName { version, digest } = &upgrade.release;
    match output {
        Output::Text => console::print(format!("release {version} ({digest}): {text}"))?,
        Output::Json => {
            let signed_by = match &upgrade.trust {
                Some(Trust::Signed { key_id }) => Some(key_id.to_string()),
                Some(Trust::UnsignedAllowed) | None => None,
            };
            let (decision, slot) = named(upgrade.decision);
            let value = json!({
                "version": version, "release": digest, "signedBy": signed_by, "decision": decision,
                "slot": slot.map(Slot::letter), "message": text,
            });
            console::print(serde_json::to_string_pretty(&value)?)?;
        }
    }
    Ok(())
}

fn named(decision: Decision) -> (&'static str, Option<Slot>) {
    match decision {
        Decision::Runs => ("Runs", None),
        Decision::StartRunning => ("StartRunning", None),
        Decision::WaitsForRestart(slot) => ("WaitsForRestart", Some(slot)),
        Decision::Start(slot) => ("Start", Some(slot)),
        Decision::Write(slot) => ("Write", Some(slot)),
    }
}

fn would(decision: Decision) -> String {
    match decision {
        Decision::Write(slot) => format!("would be written to slot {slot}"),
        Decision::Start(slot) => format!("is in slot {slot}, which would be started next"),
        Decision::StartRunning => "runs, and would be started next".into(),
        Decision::Runs | Decision::WaitsForRestart(_) => did(decision),
    }
}

fn did(decision: Decision) -> String {
    match decision {
        Decision::Runs => "runs already; there is nothing to do".into(),
        Decision::StartRunning => "runs, and is started next".into(),
        Decision::WaitsForRestart(slot) => {
            format!("was written to slot {slot} before, and is started next; restart with: systemctl reboot")
        }
        Decision::Start(slot) => {
            format!("is in slot {slot}, which is started next; restart with: systemctl reboot")
        }
        Decision::Write(slot) => {
            format!("is in slot {slot}, which is started next, on trial; restart with: systemctl reboot")
        }
    }
}
