//! The machine under a node: what it has, what its owner does with it, and how files are kept on it.
//!
//! *Goals*: no administrator rights; a value that cannot be known is `None` with a reason; files are whole or not there, and
//! only their owner reads them. *Non-goals*: what follows from all that, and anything about models, money or peers.

mod clock;
mod disk_budget;
mod files;
mod folder;
mod machine;
mod platform;

pub use clock::now_ms;
pub use disk_budget::DiskBudget;
pub use files::{append_line, claim, older, write_parts, write_whole};
pub use folder::DataFolder;
pub use machine::{Caps, Hardware, Reading, Sampler, confine, disk_free_mb, hardware, look, own_memory_mb, sampler};
pub use platform::{
    DATABASE, Lowered, START, ask_to_end, become_program, changed_at, end_with_parent, file_identity, lacks,
    lower_priority, make_runnable, parent_is, prepare_process, private_file, private_folder, processors, random_secret,
    write_private,
};
