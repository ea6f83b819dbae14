//! Operations that move element by element: 16 bytes at a time, or one.

use super::super::{Kernel, Op, Unsupported};
use crate::{
    device::{Cuda, cuda::CudaBuffer},
    error::Result,
};

/// What a thread moves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Each {
    /// 16 bytes; where rows do not lie at multiples of them as [`Each::Element`].
    Vector,
    /// One element.
    Element,
}

/// An operation with such kernels.
pub trait Elementwise: Op {
    /// Whether all rows lie at multiples of 16 bytes.
    fn in_vectors(args: &Self::Args<'_, Cuda>) -> bool;

    /// Enqueues the kernel that moves vectors or the one that moves elements.
    ///
    /// # Errors
    /// As [`Kernel::launch`].
    fn launch(dev: &Cuda, args: Self::Args<'_, Cuda>, vector: bool) -> Result<()>;
}

impl<O: Elementwise> Kernel<O, Cuda> for Each {
    fn name(&self) -> &'static str {
        match self {
            Self::Vector => "vectorised",
            Self::Element => "naive",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Vector => "16 bytes a thread",
            Self::Element => "one thread an element",
        }
    }

    fn supports(&self, _: &O::Spec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: O::Args<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let vector = *self == Self::Vector && O::in_vectors(&args);
        O::launch(dev, args, vector)
    }
}
