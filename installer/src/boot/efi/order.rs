//! The position of our entry in the firmware's boot order.

use std::collections::BTreeMap;

/// The firmware's boot menu.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Menu {
    /// Every entry by its number. The value tells whether the entry is ours.
    pub entries: BTreeMap<u16, bool>,
    /// `BootOrder`.
    pub order: Vec<u16>,
}

impl Menu {
    /// The number of our entry, the first if there are several.
    pub fn ours(&self) -> Option<u16> {
        self.entries.iter().find(|(_, is_ours)| **is_ours).map(|(number, _)| *number)
    }

    /// A number without an entry. One that is in the order is not used: it may mean something to the firmware.
    pub fn free(&self) -> u16 {
        let is_free = |number: &u16| !self.entries.contains_key(number) && !self.order.contains(number);
        (0..=u16::MAX).find(is_free).unwrap_or_default()
    }
}

/// The position of our entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Before all others, after an installation.
    First,
    /// Where it is now, or last if it is not in the order.
    Kept,
}

/// The menu with exactly one entry of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrangedMenu {
    /// Number of our entry.
    pub number: u16,
    pub order: Vec<u16>,
    /// Entries of ours that are to be removed.
    pub surplus: Vec<u16>,
}

pub fn arrange(menu: &Menu, position: Position) -> ArrangedMenu {
    let mut ours = menu.entries.iter().filter(|(_, is_ours)| **is_ours).map(|(number, _)| *number);
    let number = ours.next().unwrap_or_else(|| menu.free());
    let surplus: Vec<u16> = ours.collect();
    let mut order: Vec<u16> = menu.order.iter().copied().filter(|other| !surplus.contains(other)).collect();
    match position {
        Position::First => {
            order.retain(|other| *other != number);
            order.insert(0, number);
        }
        Position::Kept if !order.contains(&number) => order.push(number),
        Position::Kept => {}
    }
    ArrangedMenu { number, order, surplus }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_menu() -> impl Strategy<Value = Menu> {
        let entries = proptest::collection::btree_map(0u16..12, any::<bool>(), 0..8);
        let order = proptest::collection::vec(0u16..12, 0..8);
        (entries, order).prop_map(|(entries, order)| Menu { entries, order })
    }

    proptest! {
        #[test]
        fn there_is_one_entry_of_ours_and_the_others_keep_their_order(menu in any_menu(), first: bool) {
            let position = if first { Position::First } else { Position::Kept };
            let after = arrange(&menu, position);
            let is_ours = |number: &u16| *number == after.number || after.surplus.contains(number);
            prop_assert!(after.order.contains(&after.number));
            prop_assert!(!first || after.order[0] == after.number);
            prop_assert!(menu.entries.iter().all(|(number, ours)| !ours || is_ours(number)));
            prop_assert!(menu.entries.get(&after.number) != Some(&false), "somebody else's entry");
            let others = |order: &[u16]| order.iter().copied().filter(|n| !is_ours(n)).collect::<Vec<_>>();
            prop_assert_eq!(others(&menu.order), others(&after.order));
            // A second call changes nothing.
            let mut entries = menu.entries.clone();
            entries.retain(|number, _| !after.surplus.contains(number));
            entries.insert(after.number, true);
            let again = arrange(&Menu { entries, order: after.order.clone() }, position);
            prop_assert_eq!((again.number, again.order, again.surplus), (after.number, after.order, Vec::new()));
        }
    }
}
