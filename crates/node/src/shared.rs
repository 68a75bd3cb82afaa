//! What all parts of a node share.

use replica::Chains;
use std::ops::Deref;
use std::sync::Arc;
use trainer::Setup;

/// What drivers of runs share, and the chains.
pub(crate) struct Shared {
    pub(crate) setup: Arc<Setup>,
    pub(crate) chains: Arc<Chains>,
}

impl Deref for Shared {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        &self.setup
    }
}
