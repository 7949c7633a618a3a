//! System calls that nix and memmap2 do not wrap, each behind a safe function.

pub(crate) mod pipe;
