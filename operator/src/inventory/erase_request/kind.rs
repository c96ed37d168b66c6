//! The two kinds of requests that erase data: where each is in an inventory, and the words for it.

use crate::inventory::index::KnownMachine;
use api::{MachineInventoryStatus, RequestStatus, condition_type};
use protocol::message::OsReport;
use protocol::{EraseRequest, RequestReport, RequestText, ResetRequest, ResetScope};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Reinstall,
    Reset,
}

/// A request in the spec of an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    pub kind: Kind,
    pub text: &'a RequestText,
    /// Of a reset.
    pub scope: Option<ResetScope>,
}

impl Kind {
    /// The order in which the requests of a machine are sent, one after the other.
    pub const ALL: [Self; 2] = [Self::Reinstall, Self::Reset];

    pub const fn condition(self) -> &'static str {
        match self {
            Self::Reinstall => condition_type::REINSTALL,
            Self::Reset => condition_type::RESET,
        }
    }

    pub fn asked(self, machine: &KnownMachine) -> Option<Asked<'_>> {
        match self {
            Self::Reinstall => machine.reinstall.as_ref().map(|text| Asked { kind: self, text, scope: None }),
            Self::Reset => machine.reset.as_deref().map(Asked::of_reset),
        }
    }

    pub fn note(self, status: &MachineInventoryStatus) -> Option<&RequestStatus> {
        match self {
            Self::Reinstall => status.reinstall.as_deref(),
            Self::Reset => status.reset.as_deref(),
        }
    }

    pub fn note_mut(self, status: &mut MachineInventoryStatus) -> &mut Option<Box<RequestStatus>> {
        match self {
            Self::Reinstall => &mut status.reinstall,
            Self::Reset => &mut status.reset,
        }
    }

    /// What the machine reports about requests of this kind. `None` if its release does not know them.
    pub fn report(self, report: &OsReport) -> Option<&RequestReport> {
        match self {
            Self::Reinstall => report.reinstall.as_ref(),
            Self::Reset => report.reset.as_ref(),
        }
    }

    /// The field of the spec.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Reinstall => "spec.reinstall",
            Self::Reset => "spec.reset",
        }
    }

    /// What the machine does, as in "to install itself again".
    pub const fn deed(self) -> &'static str {
        match self {
            Self::Reinstall => "install itself again",
            Self::Reset => "reset itself",
        }
    }

    pub const fn done(self) -> &'static str {
        match self {
            Self::Reinstall => "the machine has installed itself again",
            Self::Reset => "the machine has reset itself",
        }
    }
}

impl<'a> Asked<'a> {
    pub fn of_reset(ResetRequest { scope, request }: &'a ResetRequest) -> Self {
        Self { kind: Kind::Reset, text: request, scope: Some(*scope) }
    }

    pub fn of(request: &'a EraseRequest) -> Self {
        match request {
            EraseRequest::Reinstall(text) => Self { kind: Kind::Reinstall, text, scope: None },
            EraseRequest::Reset(reset) => Self::of_reset(reset),
        }
    }

    pub fn to_request(self) -> EraseRequest {
        match self.scope {
            None => EraseRequest::Reinstall(self.text.clone()),
            Some(scope) => EraseRequest::Reset(ResetRequest { scope, request: self.text.clone() }),
        }
    }

    /// What the recovery system does, for the announcement.
    pub const fn erases(self) -> &'static str {
        match self.scope {
            None => {
                "restart into its recovery system, which erases COS_PERSISTENT with all data of the machine and installs its \
                 release again"
            }
            Some(ResetScope::Persistent) => {
                "restart into its recovery system, which erases COS_PERSISTENT with all data of the machine; its settings and \
                 its release stay"
            }
            Some(ResetScope::All) => {
                "restart into its recovery system, which erases COS_PERSISTENT with all data of the machine, and its \
                 cloud-config with accounts, files and commands; its release stays"
            }
        }
    }
}
