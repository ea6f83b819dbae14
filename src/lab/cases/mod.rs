//! What the lab knows of each operation: how to draw a case, which tensors it has and what must come out.
//!
//! A case is small, printable and holds everything that decides its tensors, so that it can be repeated and shrunk.
//! A [`Problem`] is the case as tensors on the host. Checks, benchmarks and comparisons put it on a device and know
//! nothing else of an operation, and nothing at all of a kernel.
//!
//! The contract that kernels may rely on beyond each `Op`'s: the first element of a view, and the distance of its
//! rows, are multiples of 8 elements wherever the rows' length is one. What they may not rely on: values outside a
//! view, after a sequence's last token in its last block, and in unused blocks are NaN; unused entries of a block
//! table name such a block.

mod attention;
mod logits;
mod logprobs;
mod rope_store;
mod rows;
mod sample;

pub use attention::AttentionCase;
pub use logits::{LogitsCase, LogitsRow};
pub use logprobs::LogprobsCase;
pub use rope_store::RopeStoreCase;
pub use rows::{ActivationCase, EmbeddingCase, KvStoreCase, LinearCase, NormCase, RopeCase};
pub use sample::{Kind, SampleCase, SampleRow};

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use super::certificate::Certificate;
pub use super::draw::{Draw, format, noise};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
    kernels::{Op, Registry, Slot, Table},
};

/// 2^-24, the relative error of rounding to f32.
pub const EPS: f64 = 1.0 / 16_777_216.0;

/// The dtypes of storage.
pub const FLOATS: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

/// An operation that can be checked.
pub trait Cases: Op {
    /// Everything that decides a case's tensors: extents, dtypes, options, seed.
    type Case: Clone + PartialEq + Debug + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// Ragged extents over every block and tile edge, every dtype and option.
    fn fixed() -> Vec<Self::Case>;

    /// A random case, small enough that a hundred take seconds.
    fn random(draw: &mut Draw) -> Self::Case;

    /// Whether extents go together; asked of cases from the command line and of shrunk ones.
    fn fits(case: &Self::Case) -> bool;

    /// The seed of its values.
    fn seed(case: &mut Self::Case) -> &mut u64;

    /// Its tensors, with what must come out.
    fn problem(case: &Self::Case) -> Problem;

    /// The arguments of a call over those tensors.
    fn args<'a, D: Device>(case: &'a Self::Case, tensors: Bound<'a, D>) -> Self::Args<'a, D>;

    /// What is judged by statistics rather than case by case, over so many groups of draws; `None` for all but samplers.
    ///
    /// # Errors
    /// What the kernel reports.
    fn certificate<D: Device>(_: &D, _: &Slot<Self, D>, _: usize) -> Result<Option<Certificate>>
    where
        Self: Sized,
    {
        Ok(None)
    }
}

/// Calls something for every operation's table.
pub trait Visit<D: Device> {
    /// One operation.
    fn visit<O: Cases>(&mut self, table: &Table<O, D>);
}

/// Visits every operation, in the order of a decoder step.
pub fn each_op<D: Device>(registry: &Registry<D>, visitor: &mut impl Visit<D>) {
    visitor.visit(&registry.embedding);
    visitor.visit(&registry.linear);
    visitor.visit(&registry.rms_norm);
    visitor.visit(&registry.add_rms_norm);
    visitor.visit(&registry.rope);
    visitor.visit(&registry.kv_store);
    visitor.visit(&registry.rope_store);
    visitor.visit(&registry.attention);
    visitor.visit(&registry.activation);
    visitor.visit(&registry.logits);
    visitor.visit(&registry.sample);
    visitor.visit(&registry.logprobs);
}

/// A case on the host.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// What the kernel reads, and what it writes with what must come out.
    pub tensors: Vec<HostTensor>,
}

/// A tensor of a [`Problem`].
#[derive(Clone, Debug)]
pub struct HostTensor {
    /// As the operation's arguments call it.
    pub name: &'static str,
    /// Extents.
    pub shape: Vec<usize>,
    /// Before the call.
    pub data: Data,
    /// Whether its rows lie apart, as columns of a wider tensor: `margin` columns (of the second extent) before and
    /// after.
    pub margin: usize,
    /// After the call; `None`: as before.
    pub want: Option<Want>,
}

/// Values of a tensor.
#[derive(Clone, Debug)]
pub enum Data {
    /// Floating-point values, exact in this dtype.
    Float(DType, Vec<f32>),
    /// Integers.
    Int(Vec<i32>),
    /// What the kernel has yet to write.
    Unwritten(DType),
}

/// What must come out.
#[derive(Clone, Debug)]
pub enum Want {
    /// These integers.
    Int(Vec<i32>),
    /// These values but for rounding.
    Float(Target),
}

/// Floating-point values and how far a right kernel may be from them.
#[derive(Clone, Debug)]
pub struct Target {
    /// The oracle's values, before the last rounding to the dtype.
    pub values: Vec<f32>,
    /// Absolute error allowed for each, besides half a unit in the last place of the dtype; infinite where anything may
    /// stand.
    pub budget: Vec<f64>,
    /// Root mean square error allowed for all, where one is set.
    pub rms: Option<f64>,
    /// What a naive kernel of the same dtype gives, where it is not the oracle's values rounded.
    pub naive: Option<Vec<f32>>,
}

impl Target {
    /// These values, each with its budget.
    pub fn new(values: Vec<f32>, budget: impl Fn(usize) -> f64) -> Self {
        let budget = (0..values.len()).map(budget).collect();
        Self { values, budget, rms: None, naive: None }
    }

    /// These values, correctly rounded to the dtype.
    pub fn exact(values: Vec<f32>) -> Self {
        Self::new(values, |_| 0.0)
    }
}

impl HostTensor {
    /// An input of floating-point values, contiguous.
    pub fn float(name: &'static str, dtype: DType, values: Vec<f32>, shape: &[usize]) -> Self {
        Self::of(name, Data::Float(dtype, values), shape)
    }

    /// A one-dimensional input of integers.
    pub fn int(name: &'static str, values: Vec<i32>) -> Self {
        let shape = [values.len()];
        Self::of(name, Data::Int(values), &shape)
    }

    /// An output.
    pub fn output(name: &'static str, dtype: DType, shape: &[usize], want: Want) -> Self {
        Self::of(name, Data::Unwritten(dtype), shape).wanted(want)
    }

    fn of(name: &'static str, data: Data, shape: &[usize]) -> Self {
        Self { name, shape: shape.to_vec(), data, margin: 0, want: None }
    }

    /// The same as part of a wider tensor.
    pub fn apart(self, margin: usize) -> Self {
        Self { margin, ..self }
    }

    /// The same integers with more extents.
    pub fn reshaped(self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), ..self }
    }

    /// The same, to be written.
    pub fn wanted(self, want: Want) -> Self {
        Self { want: Some(want), ..self }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            Data::Float(dtype, _) | Data::Unwritten(dtype) => dtype,
            Data::Int(_) => DType::I32,
        }
    }
}

/// A problem's tensors on a device, by name.
pub struct Bound<'a, D: Device> {
    pub(super) views: Vec<(&'static str, View<'a, D>)>,
    pub(super) outs: Vec<(&'static str, ViewMut<'a, D>)>,
}

impl<'a, D: Device> Bound<'a, D> {
    /// An input. Panics if the problem has none of that name.
    pub fn view(&self, name: &str) -> View<'a, D> {
        self.get(name).unwrap_or_else(|| panic!("no input {name}"))
    }

    /// An input that may be missing.
    pub fn get(&self, name: &str) -> Option<View<'a, D>> {
        self.views.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    /// A tensor to write, once. Panics if the problem has none of that name.
    pub fn out(&mut self, name: &str) -> ViewMut<'a, D> {
        let at = self.outs.iter().position(|(n, _)| *n == name);
        self.outs.swap_remove(at.unwrap_or_else(|| panic!("no output {name}"))).1
    }
}

/// Relative error of a sum of `n` f32 terms in any order, one rounding each: `6 sqrt(n)` of them, which random
/// roundings exceed with probability `2 n exp(-18)`. Source: Higham and Mary, "A New Approach to Probabilistic
/// Rounding Error Analysis", SIAM J. Sci. Comput. 41(5), 2019.
pub fn sum_error(n: usize) -> f64 {
    6.0 * (n as f64).sqrt() * EPS
}
