//! Recorded decode steps, by padded batch size. The sizes are nano-vLLM's: 1, 2, 4, 8, and multiples of 16 up to 512.

use std::collections::HashMap;

use crate::{device::Device, kernels::SampleSpec};

/// Most sequences of a recorded step.
const LARGEST: usize = 512;

/// The sizes for at most `seqs` sequences: the last is `seqs` itself, or 512.
pub fn sizes(seqs: usize) -> impl Iterator<Item = usize> {
    let most = seqs.min(LARGEST);
    let standard = [1, 2, 4, 8].into_iter().chain((16..=LARGEST).step_by(16));
    standard.take_while(move |&size| size < most).chain((most > 0).then_some(most))
}

/// What the record of a draw depends on besides the addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tail {
    /// Rows.
    pub size: usize,
    /// Whether logits are processed.
    pub process: bool,
    /// What the rows ask for.
    pub spec: SampleSpec,
    /// Columns of log-probabilities; 0: nobody asks.
    pub columns: usize,
}

/// Records, made when they are first wanted.
pub struct Graphs<D: Device> {
    /// Of the decoder, by padded size.
    pub steps: HashMap<usize, D::Graph>,
    /// Of logits and sampler.
    pub tails: HashMap<Tail, D::Graph>,
    /// The longest sequence, for which steps are launched.
    pub max_len: usize,
    sizes: Vec<usize>,
    memory: usize,
}

impl<D: Device> Graphs<D> {
    /// For at most `seqs` sequences of at most `max_len` tokens; none for 0.
    pub fn new(seqs: usize, max_len: usize) -> Self {
        Self {
            steps: HashMap::new(),
            tails: HashMap::new(),
            max_len,
            sizes: sizes(seqs).collect(),
            memory: 0,
        }
    }

    /// The least size for `seqs` sequences; 0 if they are too many.
    pub fn size(&self, seqs: usize) -> usize {
        self.sizes.get(self.sizes.partition_point(|&size| size < seqs)).copied().unwrap_or(0)
    }

    /// Forgets all records if memory that they refer to has moved: `memory` is how much of it there is, and it only
    /// ever grows.
    pub fn check(&mut self, memory: usize) {
        if self.memory != memory {
            self.clear();
            self.memory = memory;
        }
    }

    /// Forgets all records.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.tails.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;

    #[test]
    fn sizes_cover_every_batch() {
        assert_eq!(sizes(40).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 40]);
        assert_eq!(sizes(3).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(sizes(16).collect::<Vec<_>>(), [1, 2, 4, 8, 16]);
        assert_eq!(sizes(0).count(), 0);
        assert_eq!((sizes(1000).count(), sizes(1000).last()), (36, Some(512)));
        let graphs = Graphs::<Cpu>::new(40, 8);
        assert_eq!([1, 3, 8, 9, 33, 40, 41].map(|n| graphs.size(n)), [1, 4, 8, 16, 40, 40, 0]);
    }
}
