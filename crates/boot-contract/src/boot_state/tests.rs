//! Tests of the boot state and its block.

use super::block::{ATOMIC, MAGIC};
use super::*;
use proptest::prelude::*;

fn any_slot() -> impl Strategy<Value = Slot> {
    proptest::sample::select(&Slot::ALL[..])
}

fn any_boot() -> impl Strategy<Value = SlotBoot> {
    (proptest::sample::select(&SlotState::ALL[..]), 0..=5u8).prop_map(|(state, left)| SlotBoot { state, left })
}

fn any_state() -> impl Strategy<Value = BootState> {
    let others = proptest::collection::vec("[a-zA-Z]{1,9}_of_others=[ -\\[\\]-~]{0,60}", 0..8);
    (any_slot(), any_slot(), any_boot(), any_boot(), any::<u16>(), 0..=MOST_RETURNS, others).prop_map(
        |(active, preferred, a, b, menu, returns, others)| {
            let others = others.into_iter().map(String::into_bytes).collect();
            BootState { active, preferred, a, b, menu, returns, others }
        },
    )
}

#[test]
fn a_damaged_slot_uses_up_its_starts_although_it_comes_up() {
    let good = SlotBoot::new(SlotState::Good);
    let mut state = BootState { a: good, ..BootState::INSTALLED };
    let mut starts = 0;
    while state.start() == Slot::A {
        state.doubt(Slot::A);
        starts += 1;
    }
    assert_eq!((starts, state.a.state), (4, SlotState::Failed));
}

#[test]
fn a_slot_is_not_started_while_it_is_rewritten() {
    let good = SlotBoot::new(SlotState::Good);
    let mut state = BootState { a: good, b: good, menu: 3, returns: 2, ..BootState::INSTALLED };
    state.give_up(Slot::A, Slot::Recovery);
    assert_eq!((state.start(), state.active), (Slot::Recovery, Slot::Recovery));
    assert!(state.take_new(Slot::A));
    assert_eq!(state, BootState { b: good, ..BootState::INSTALLED });
    assert!(!state.take_new(Slot::A), "it is told once");
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_and_ours_from_one_sector(state in any_state()) {
        let block = state.to_bytes();
        prop_assert_eq!(block.len(), LENGTH);
        prop_assert_eq!(BootState::parse(&block), Ok(state.clone()));
        let ours = BootState { others: Vec::new(), ..state };
        prop_assert!(ours.to_bytes()[ATOMIC..].iter().all(|b| *b == b'#'));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = BootState::parse(&bytes);
        let mut block = MAGIC.to_vec();
        block.extend(bytes);
        block.resize(LENGTH, b'#');
        if let Ok(state) = BootState::parse(&block) {
            prop_assert_eq!(BootState::parse(&state.to_bytes()).map(|state| state.active), Ok(state.active));
        }
    }

    /// From any state, a system that never becomes healthy is left after its starts, and then recovery stays.
    #[test]
    fn every_start_is_counted_and_recovery_is_reached(state in any_state()) {
        let mut state = state;
        let slots = [state.a, state.b];
        let most: u8 = slots.iter().filter(|boot| boot.may_start()).map(|boot| boot.left).sum();
        let mut starts = 0;
        loop {
            let before = state.clone();
            let started = state.start();
            prop_assert_eq!(state.active, started);
            prop_assert_eq!(state.preferred, before.preferred);
            match started {
                Slot::Recovery => break,
                slot => {
                    prop_assert!(before.slot(slot).unwrap().may_start());
                    prop_assert_eq!(state.slot(slot).unwrap().left + 1, before.slot(slot).unwrap().left);
                }
            }
            prop_assert_eq!(state.menu, if before.active == started { before.menu } else { 0 });
            starts += 1;
            prop_assert!(starts <= most);
        }
        let at_last = state.clone();
        prop_assert_eq!(state.start(), Slot::Recovery);
        prop_assert_eq!(state, at_last);
    }

    #[test]
    fn a_healthy_slot_goes_on_for_ever(state in any_state()) {
        let mut state = state;
        let slot = state.start();
        for _ in 0..20 {
            state.mark_good(slot);
            prop_assert_eq!(state.start(), slot);
        }
    }
}

/// The slots that are started, up to recovery, if no system ever becomes healthy.
fn starts(state: &BootState) -> String {
    let mut state = state.clone();
    std::iter::repeat_with(|| state.start()).take_while(|slot| *slot != Slot::Recovery).map(Slot::letter).collect()
}

#[test]
fn a_trial_has_three_starts_and_a_good_slot_five_then_the_other_slot_then_recovery() {
    let (trial, good) = (SlotBoot::new(SlotState::Trial), SlotBoot::new(SlotState::Good));
    let installed = BootState::INSTALLED;
    assert_eq!(starts(&installed), "AAA");
    assert_eq!(starts(&BootState { a: good, ..installed.clone() }), "AAAAA");
    let upgraded = BootState { a: good, b: trial, active: Slot::B, menu: 7, ..installed.clone() };
    assert_eq!(starts(&upgraded), "BBBAAAAA");
    let failed = SlotBoot::new(SlotState::Failed);
    assert_eq!(starts(&BootState { a: good, b: failed, ..installed.clone() }), "AAAAA");
    assert_eq!(starts(&BootState { active: Slot::Recovery, ..installed }), "");
}

#[test]
fn after_a_fallback_the_slot_that_came_up_is_preferred() {
    let good = SlotBoot::new(SlotState::Good);
    let upgraded = BootState { a: good, ..BootState::INSTALLED };
    let mut upgraded =
        BootState { b: SlotBoot::new(SlotState::Trial), active: Slot::B, preferred: Slot::B, ..upgraded };
    upgraded.mark_good(Slot::A);
    assert_eq!(upgraded.preferred, Slot::B, "it has not been started yet");
    while upgraded.start() == Slot::B {}
    upgraded.mark_good(Slot::A);
    assert_eq!((upgraded.active, upgraded.preferred, upgraded.a), (Slot::A, Slot::A, good));
}

#[test]
fn a_slot_is_chosen_if_it_holds_something() {
    let mut state = BootState { a: SlotBoot::new(SlotState::Failed), active: Slot::Recovery, ..BootState::INSTALLED };
    assert!(!state.choose(Slot::B));
    assert_eq!(state.active, Slot::Recovery);
    assert!(state.choose(Slot::A));
    assert_eq!((state.active, state.preferred, state.a), (Slot::A, Slot::A, SlotBoot::new(SlotState::Trial)));
    assert!(state.choose(Slot::Recovery));
    assert_eq!(state.start(), Slot::Recovery);
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
    let state = BootState::parse(&block(&text)).unwrap();
    assert_eq!((state.active, state.preferred, state.menu), (Slot::A, Slot::A, 0));
    assert_eq!(state.a, SlotBoot { state: SlotState::Good, left: 0 });
    assert_eq!(state.b, SlotBoot { state: SlotState::Trial, left: 2 });
    let written = String::from_utf8(state.to_bytes()).unwrap();
    assert!(written.contains("\nsaved_entry=two words\nescaped=a\\\\b\\\nactive=R\n###"), "{written}");
}

#[test]
fn a_block_without_a_slot_is_refused() {
    for (text, expected) in [("", "active"), ("active=A\nslot_a=x\n", "slot_a"), ("active=A\nslot_a=good\n", "slot_b")]
    {
        assert!(matches!(BootState::parse(&block(text)), Err(BlockError::Value { name, .. }) if name == expected));
    }
    assert_eq!(BootState::parse(&[0; LENGTH]), Err(BlockError::Magic));
}

#[test]
fn a_slot_that_failed_before_its_starts_were_used_up_is_left() {
    let good = SlotBoot::new(SlotState::Good);
    let mut state = BootState { a: good, active: Slot::B, b: SlotBoot::new(SlotState::Trial), ..BootState::INSTALLED };
    state.fail(Slot::B);
    assert_eq!((state.start(), state.active, state.b.left), (Slot::A, Slot::A, 0));
}
