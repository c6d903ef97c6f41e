//! What `dataset import` is made of: the bytes on their way out, and the events on their way back.

pub(crate) mod archive;
pub(crate) mod input;
pub(crate) mod report;
