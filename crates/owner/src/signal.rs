//! What whoever works for others is told of the owner.

/// What the owner allows now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerSignal {
    /// Others may be worked for.
    Works,
    /// What is under way is finished.
    Drains,
    /// They may not.
    Rests,
    /// They may not, and memory is to be given back.
    Sheds,
}
