//! The API as its clients see it.

mod bodies;
mod headers;
mod parameters;
mod parrot;
mod quotas;
