//! Log-probabilities, from the device to a sequence.

use super::{sequence::TokenLogprobs, staged::Fetched};
use crate::{
    device::{DType, Device, Tensor, View},
    error::Result,
    kernels::{Kernel, Logprobs, LogprobsArgs, Queue, run},
};

/// What [`Logprobs`] writes.
pub struct LogprobsOutput<D: Device> {
    values: Tensor<D>,
    ids: Tensor<D>,
}

/// A copy of it on its way to the host.
pub struct FetchedLogprobs<D: Device> {
    values: Fetched<D, f32>,
    ids: Fetched<D, i32>,
    columns: usize,
}

/// Columns of the output for a row that wants `top` of the likeliest: few different numbers, because recorded steps have
/// them built in.
pub fn columns(top: usize, vocab: usize) -> usize {
    1 + top.next_power_of_two().min(vocab)
}

impl<D: Device> LogprobsOutput<D> {
    /// Room for `values` values and as many ids.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn new(dev: &D, values: usize) -> Result<Self> {
        Ok(Self {
            values: Tensor::zeros(dev, DType::F32, &[values])?,
            ids: Tensor::zeros(dev, DType::I32, &[values])?,
        })
    }

    /// Values that there is room for.
    pub fn capacity(&self) -> usize {
        self.values.shape()[0]
    }

    /// Makes room.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn reserve(&mut self, dev: &D, values: usize) -> Result<()> {
        if values > self.capacity() {
            *self = Self::new(dev, values.next_power_of_two())?;
        }
        Ok(())
    }

    /// Enqueues the kernel: `columns` columns for each row of `logits`, which are unprocessed. Panics without room.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn compute(
        &mut self,
        queue: &mut Queue<D>,
        kernel: &dyn Kernel<Logprobs, D>,
        logits: View<'_, D>,
        tokens: View<'_, D>,
        softcap: Option<f32>,
        columns: usize,
    ) -> Result<()> {
        let shape = [logits.shape()[0], columns];
        let room = 0..shape.iter().product();
        let values = self.values.rows_mut(room.clone()).reshape(&shape);
        let ids = self.ids.rows_mut(room).reshape(&shape);
        run(kernel, queue, LogprobsArgs { logits, tokens, softcap, values, ids })
    }
}

impl<D: Device> FetchedLogprobs<D> {
    /// Room for `values` values and as many ids.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn new(dev: &D, values: usize) -> Result<Self> {
        Ok(Self { values: Fetched::new(dev, values)?, ids: Fetched::new(dev, values)?, columns: 1 })
    }

    /// Enqueues the copy of the first `rows` rows of `columns` columns.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when it cannot be enqueued.
    pub fn start(&mut self, dev: &D, from: &LogprobsOutput<D>, rows: usize, columns: usize) -> Result<()> {
        self.columns = columns;
        self.values.start(dev, &from.values.rows(0..rows * columns))?;
        self.ids.start(dev, &from.ids.rows(0..rows * columns))
    }

    /// Waits for the copy: a row's log-probabilities, given how many of the likeliest tokens it wants.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when work up to there failed.
    pub fn finish(&mut self, dev: &D) -> Result<impl Fn(usize, usize) -> TokenLogprobs> {
        let (values, ids, columns) = (self.values.finish(dev)?, self.ids.finish(dev)?, self.columns);
        Ok(move |row: usize, top| {
            let row = row * columns..(row + 1) * columns;
            token_logprobs(&values[row.clone()], &ids[row], top)
        })
    }
}

/// A row of the kernel's output: the token's log-probability and rank, then the likeliest tokens in the order of their ids.
fn token_logprobs(values: &[f32], ids: &[i32], top: usize) -> TokenLogprobs {
    let mut likeliest: Vec<_> = ids[1..].iter().zip(&values[1..]).map(|(&id, &v)| (id as u32, v)).collect();
    likeliest.sort_by(|(_, a), (_, b)| b.total_cmp(a)); // stable: lower ids first among equals
    likeliest.truncate(top);
    TokenLogprobs { logprob: values[0], rank: ids[0] as u32, top: likeliest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeliest_first_and_lower_ids_among_equals() {
        let got = token_logprobs(&[-2.0, -1.5, -0.5, -1.5, -0.1], &[3, 1, 4, 7, 8], 3);
        assert_eq!((got.logprob, got.rank), (-2.0, 3));
        assert_eq!(got.top, [(8, -0.1), (4, -0.5), (1, -1.5)]);
        assert_eq!([0, 1, 5, 300].map(|top| columns(top, 320)), [2, 2, 9, 321]);
    }
}
