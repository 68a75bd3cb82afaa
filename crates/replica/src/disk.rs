//! What a keeper writes down, and whom it tells.

use chain::{Block, Happened, Step};

/// Where blocks are kept. What a call gave back is on disk, whatever happens next.
pub trait Disk: Send + Sync + 'static {
    /// Keeps a block that may become final.
    fn keep(&self, block: &Block) -> std::io::Result<()>;
    /// Blocks kept that are not final.
    fn kept(&self) -> std::io::Result<Vec<Vec<u8>>>;
    /// Appends final blocks, in order, the last one with the certificate that makes them final; lets go of
    /// others at their heights.
    fn finish(&self, blocks: &[Block], certificate: &[u8]) -> std::io::Result<()>;
    /// The final block at a height.
    fn block(&self, height: u64) -> std::io::Result<Option<Vec<u8>>>;
    /// The newest state that was kept whole, with its height; blocks after it make the rest.
    fn state(&self) -> std::io::Result<Option<Vec<u8>>>;
    /// Keeps a state whole, so that who starts again does not begin at the genesis, and ends of epochs before it.
    fn keep_state(&self, state: &[u8], ends: &[Step]) -> std::io::Result<()>;
    /// The certificate of the final block at a height; not every one has its own.
    fn certificate(&self, height: u64) -> std::io::Result<Option<Vec<u8>>>;
    /// The last block of an epoch that has ended, with its certificate.
    fn end(&self, epoch: u64) -> std::io::Result<Option<Step>>;
    /// Bytes that are free where the blocks and the journal are. A validator stops before there are none.
    fn room(&self) -> std::io::Result<u64> {
        Ok(u64::MAX)
    }
}

/// Who is told of final blocks.
pub type Note = dyn Fn(&Block, &[Happened]) + Send + Sync;
