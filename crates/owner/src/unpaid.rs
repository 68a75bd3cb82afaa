//! Why a unit of work in a run was not paid: a closed vocabulary.

use std::fmt;

/// What kept a member's part in a round from being paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unpaid {
    /// The run had nothing to pay with.
    NoBudget,
    /// The unit was not in the set that was applied.
    LeftOut,
    /// The round changed nothing.
    VoidRound,
    /// No unit came.
    Missed,
}

impl Unpaid {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::NoBudget, Self::LeftOut, Self::VoidRound, Self::Missed];

    /// Its stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoBudget => "no_budget",
            Self::LeftOut => "left_out",
            Self::VoidRound => "void_round",
            Self::Missed => "missed",
        }
    }

    /// One plain sentence for the owner.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoBudget => "The run had no budget left, and no new credits are admitted for it.",
            Self::LeftOut => "It came too late for the others to hold it, or from other weights.",
            Self::VoidRound => "The round had no quorum; what was done may count in the next one.",
            Self::Missed => "It was planned and did not come: you needed the machine, or it was too slow.",
        }
    }

    /// What the owner could do about it, where there is anything.
    pub fn mend(self) -> Option<&'static str> {
        match self {
            Self::NoBudget => Some("Say `talkoo wallet fund RUN 5 --yes`, or set pay_min."),
            Self::LeftOut => Some("Look at the connection of the machine."),
            Self::VoidRound => None,
            Self::Missed => Some("Let it go on while you are there (when_active)."),
        }
    }
}

impl fmt::Display for Unpaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_a_name_and_a_sentence() {
        let codes: BTreeSet<&str> = Unpaid::ALL.iter().map(|why| why.code()).collect();
        assert_eq!(codes.len(), Unpaid::ALL.len());
        for text in Unpaid::ALL.iter().flat_map(|why| [Some(why.text()), why.mend()]).flatten() {
            assert!(text.starts_with(char::is_uppercase) && text.ends_with('.'), "{text}");
        }
    }
}
