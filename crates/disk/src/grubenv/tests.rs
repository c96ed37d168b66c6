//! Tests of the boot state and its block.

use super::*;
use proptest::prelude::*;

const STATES: [SlotState; 4] = [SlotState::Empty, SlotState::Trial, SlotState::Good, SlotState::Failed];

fn any_slot() -> impl Strategy<Value = Slot> {
    prop_oneof![Just(Slot::A), Just(Slot::B), Just(Slot::Recovery)]
}

fn any_boot() -> impl Strategy<Value = SlotBoot> {
    (0..4usize, 0..=5u8).prop_map(|(state, left)| SlotBoot { state: STATES[state], left })
}

fn any_env() -> impl Strategy<Value = GrubEnv> {
    let others = proptest::collection::vec("[a-zA-Z]{1,9}_of_others=[ -\\[\\]-~]{0,60}", 0..8);
    (any_slot(), any_slot(), any_boot(), any_boot(), any::<u16>(), 0..=MOST_RETURNS, others).prop_map(
        |(active, preferred, a, b, menu, returns, others)| {
            let others = others.into_iter().map(String::into_bytes).collect();
            GrubEnv { active, preferred, a, b, menu, returns, others }
        },
    )
}

#[test]
fn a_damaged_slot_uses_up_its_starts_although_it_comes_up() {
    let good = SlotBoot::new(SlotState::Good);
    let mut env = GrubEnv { a: good, ..GrubEnv::INSTALLED };
    let mut starts = 0;
    while env.start() == Slot::A {
        env.doubt(Slot::A);
        starts += 1;
    }
    assert_eq!((starts, env.a.state), (4, SlotState::Failed));
}

#[test]
fn a_slot_is_not_started_while_it_is_rewritten() {
    let good = SlotBoot::new(SlotState::Good);
    let mut env = GrubEnv { a: good, b: good, menu: 3, returns: 2, ..GrubEnv::INSTALLED };
    env.give_up_slot_a();
    assert_eq!((env.start(), env.active), (Slot::Recovery, Slot::Recovery));
    assert!(env.take_new_slot_a());
    assert_eq!(env, GrubEnv { b: good, ..GrubEnv::INSTALLED });
    assert!(!env.take_new_slot_a(), "it is told once");
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_and_ours_from_one_sector(env in any_env()) {
        let block = env.to_bytes();
        prop_assert_eq!(block.len(), LENGTH);
        prop_assert_eq!(GrubEnv::parse(&block), Ok(env.clone()));
        let ours = GrubEnv { others: Vec::new(), ..env };
        prop_assert!(ours.to_bytes()[ATOMIC..].iter().all(|b| *b == b'#'));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = GrubEnv::parse(&bytes);
        let mut block = MAGIC.to_vec();
        block.extend(bytes);
        block.resize(LENGTH, b'#');
        if let Ok(env) = GrubEnv::parse(&block) {
            prop_assert_eq!(GrubEnv::parse(&env.to_bytes()).map(|env| env.active), Ok(env.active));
        }
    }

    /// From any state, a system that never becomes healthy is left after its starts, and then recovery stays.
    #[test]
    fn every_start_is_counted_and_recovery_is_reached(env in any_env()) {
        let mut env = env;
        let slots = [env.a, env.b];
        let most: u8 = slots.iter().filter(|boot| boot.may_start()).map(|boot| boot.left).sum();
        let mut starts = 0;
        loop {
            let before = env.clone();
            let started = env.start();
            prop_assert_eq!(env.active, started);
            prop_assert_eq!(env.preferred, before.preferred);
            match started {
                Slot::Recovery => break,
                slot => {
                    prop_assert!(before.slot(slot).unwrap().may_start());
                    prop_assert_eq!(env.slot(slot).unwrap().left + 1, before.slot(slot).unwrap().left);
                }
            }
            prop_assert_eq!(env.menu, if before.active == started { before.menu } else { 0 });
            starts += 1;
            prop_assert!(starts <= most);
        }
        let at_last = env.clone();
        prop_assert_eq!(env.start(), Slot::Recovery);
        prop_assert_eq!(env, at_last);
    }

    #[test]
    fn a_healthy_slot_goes_on_for_ever(env in any_env()) {
        let mut env = env;
        let slot = env.start();
        for _ in 0..20 {
            env.mark_good(slot);
            prop_assert_eq!(env.start(), slot);
        }
    }
}

/// The slots that are started, up to recovery, if no system ever becomes healthy.
fn starts(env: &GrubEnv) -> String {
    let mut env = env.clone();
    std::iter::repeat_with(|| env.start()).take_while(|slot| *slot != Slot::Recovery).map(folder).collect()
}

#[test]
fn a_trial_has_three_starts_and_a_good_slot_five_then_the_other_slot_then_recovery() {
    let (trial, good) = (SlotBoot::new(SlotState::Trial), SlotBoot::new(SlotState::Good));
    let installed = GrubEnv::INSTALLED;
    assert_eq!(starts(&installed), "AAA");
    assert_eq!(starts(&GrubEnv { a: good, ..installed.clone() }), "AAAAA");
    let upgraded = GrubEnv { a: good, b: trial, active: Slot::B, menu: 7, ..installed.clone() };
    assert_eq!(starts(&upgraded), "BBBAAAAA");
    let failed = SlotBoot::new(SlotState::Failed);
    assert_eq!(starts(&GrubEnv { a: good, b: failed, ..installed.clone() }), "AAAAA");
    assert_eq!(starts(&GrubEnv { active: Slot::Recovery, ..installed }), "");
}

#[test]
fn a_slot_is_chosen_if_it_holds_something() {
    let mut env = GrubEnv { a: SlotBoot::new(SlotState::Failed), active: Slot::Recovery, ..GrubEnv::INSTALLED };
    assert!(!env.choose(Slot::B));
    assert_eq!(env.active, Slot::Recovery);
    assert!(env.choose(Slot::A));
    assert_eq!((env.active, env.preferred, env.a), (Slot::A, Slot::A, SlotBoot::new(SlotState::Trial)));
    assert!(env.choose(Slot::Recovery));
    assert_eq!(env.start(), Slot::Recovery);
}

fn block(text: &str) -> Vec<u8> {
    let mut block = [MAGIC, text.as_bytes()].concat();
    block.resize(LENGTH, b'#');
    block
}

#[test]
fn what_grub_writes_is_read_and_variables_of_others_stay() {
    let others = "# a comment\nsaved_entry=two words\nescaped=a\\\\b\\\nactive=R\n";
    let text = format!("{others}left_b=2\nactive=B\nslot_a=good\nslot_b=trial\nleft_a=9\nactive=A\n");
    let env = GrubEnv::parse(&block(&text)).unwrap();
    assert_eq!((env.active, env.preferred, env.menu), (Slot::A, Slot::A, 0));
    assert_eq!(env.a, SlotBoot { state: SlotState::Good, left: 0 });
    assert_eq!(env.b, SlotBoot { state: SlotState::Trial, left: 2 });
    let written = String::from_utf8(env.to_bytes()).unwrap();
    assert!(written.contains("\nsaved_entry=two words\nescaped=a\\\\b\\\nactive=R\n###"), "{written}");
}

#[test]
fn a_block_without_a_slot_is_refused() {
    for (text, expected) in [("", "active"), ("active=A\nslot_a=x\n", "slot_a"), ("active=A\nslot_a=good\n", "slot_b")]
    {
        assert!(matches!(GrubEnv::parse(&block(text)), Err(GrubEnvError::Value { name, .. }) if name == expected));
    }
    assert_eq!(GrubEnv::parse(&[0; LENGTH]), Err(GrubEnvError::Magic));
}

#[test]
fn the_file_is_overwritten_in_place_or_not_at_all() {
    use std::os::unix::fs::MetadataExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(GrubEnv::INSTALLED.overwrite(file.path()).is_err(), "an empty file is not extended");
    std::fs::write(file.path(), GrubEnv::INSTALLED.to_bytes()).unwrap();
    let inode = std::fs::metadata(file.path()).unwrap().ino();
    let mut good = GrubEnv::INSTALLED;
    good.mark_good(Slot::A);
    good.overwrite(file.path()).unwrap();
    assert_eq!(GrubEnv::read(file.path()).unwrap(), good);
    assert_eq!(std::fs::metadata(file.path()).unwrap().ino(), inode);
}
