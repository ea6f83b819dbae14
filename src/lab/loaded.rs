//! A problem's tensors on a device, each surrounded by poison.

use std::ops::Range;

use half::{bf16, f16};

use super::cases::{Bound, Data, HostTensor, Problem};
use crate::{
    device::{DType, Device, Tensor, View},
    error::Result,
};

/// What stands before and after a tensor, between rows that lie apart, and in outputs before the call. As a float it
/// is a signalling NaN, which no arithmetic gives; as an index it leads far outside.
pub fn poison(dtype: DType) -> u32 {
    match dtype {
        DType::F32 | DType::I32 => 0x7fa5_a5a5,
        DType::Bf16 => 0x7fa5,
        DType::F16 => 0x7da5,
    }
}

/// A tensor on the device, with what its memory held before the call.
pub struct Loaded<D: Device> {
    name: &'static str,
    shape: Vec<usize>,
    margin: usize,
    writable: bool,
    /// Elements before the first and after the last row.
    guard: usize,
    tensor: Tensor<D>,
    /// All of the memory before the call.
    image: Vec<u8>,
}

impl<D: Device> Loaded<D> {
    /// A problem's tensors.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn all(dev: &D, problem: &Problem) -> Result<Vec<Self>> {
        problem.tensors.iter().map(|t| Self::new(dev, t)).collect()
    }

    fn new(dev: &D, host: &HostTensor) -> Result<Self> {
        let row: usize = host.shape.iter().skip(1).product();
        // A row that is written one too far still hits the guard.
        let guard = row.clamp(64, 8192).next_multiple_of(64);
        let inner: usize = host.shape.iter().skip(2).product();
        let wide = row + 2 * host.margin * inner;
        let elements = 2 * guard + host.shape[0] * wide;
        let mut loaded = Self {
            name: host.name,
            shape: host.shape.clone(),
            margin: host.margin,
            writable: host.want.is_some(),
            guard,
            tensor: Tensor::zeros(dev, host.dtype(), &[elements])?,
            image: Vec::new(),
        };
        loaded.load(dev, host)?;
        Ok(loaded)
    }

    /// Fills the memory for a problem of the same shapes.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the copy fails.
    pub fn load(&mut self, dev: &D, host: &HostTensor) -> Result<()> {
        assert_eq!((&self.shape, self.tensor.dtype()), (&host.shape, host.dtype()), "{}", self.name);
        let (dtype, size) = (host.dtype(), host.dtype().size());
        let poison = poison(dtype).to_le_bytes();
        self.image = poison[..size].repeat(self.tensor.shape()[0]);
        let values = encode(&host.data);
        let mut rest = &values[..];
        for range in self.inside() {
            let bytes = range.start * size..range.end * size;
            let Some((row, after)) = rest.split_at_checked(bytes.len()) else { break };
            self.image[bytes].copy_from_slice(row);
            rest = after;
        }
        self.reset(dev)
    }

    /// Restores the memory to what it was before the call.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the copy fails.
    pub fn reset(&mut self, dev: &D) -> Result<()> {
        dev.write(self.tensor.view_mut().buffer_mut(), 0, &self.image)
    }

    /// All of the memory, now. Waits for the device.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when earlier work or the copy failed.
    pub fn read(&self, dev: &D) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.image.len()];
        dev.read(self.tensor.view().buffer(), 0, &mut bytes)?;
        Ok(bytes)
    }

    /// All of the memory before the call.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// The rows' places in the memory, in elements; one place if they follow each other.
    pub fn inside(&self) -> Vec<Range<usize>> {
        let margin = self.margin * self.shape.iter().skip(2).product::<usize>();
        let (rows, row) = match self.shape.iter().skip(1).product::<usize>() {
            row if margin > 0 => (self.shape[0], row),
            row => (1, self.shape[0] * row),
        };
        let start = |r: usize| self.guard + r * (row + 2 * margin) + margin;
        (0..rows).map(|r| start(r)..start(r) + row).collect()
    }

    /// Everything else, in elements.
    pub fn outside(&self) -> Vec<Range<usize>> {
        let mut out = Vec::new();
        let mut at = 0;
        for range in self.inside() {
            out.push(at..range.start);
            at = range.end;
        }
        out.push(at..self.tensor.shape()[0]);
        out
    }

    fn wide(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.margin > 0 {
            shape[1] += 2 * self.margin;
        }
        shape
    }

    fn view(&self) -> View<'_, D> {
        let wide = self.wide();
        let elements: usize = wide.iter().product();
        let view = self.tensor.rows(self.guard..self.guard + elements).reshape(&wide);
        if self.margin > 0 { view.columns(self.margin..self.margin + self.shape[1]) } else { view }
    }
}

/// The tensors as arguments take them.
pub fn bind<D: Device>(loaded: &mut [Loaded<D>]) -> Bound<'_, D> {
    let mut bound = Bound { views: Vec::new(), outs: Vec::new() };
    for l in loaded {
        if l.writable {
            assert_eq!(l.margin, 0, "{}: what is written is contiguous", l.name);
            let elements: usize = l.shape.iter().product();
            let out = l.tensor.rows_mut(l.guard..l.guard + elements).reshape(&l.shape);
            bound.outs.push((l.name, out));
        } else {
            bound.views.push((l.name, l.view()));
        }
    }
    bound
}

fn encode(data: &Data) -> Vec<u8> {
    match data {
        Data::Unwritten(_) => Vec::new(),
        Data::Int(values) => bytemuck::cast_slice(values).to_vec(),
        Data::Float(DType::Bf16, values) => {
            values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()
        }
        Data::Float(DType::F16, values) => {
            values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
        }
        Data::Float(_, values) => bytemuck::cast_slice(values).to_vec(),
    }
}

/// Element `at` of some memory, with its bits.
pub fn element(dtype: DType, bytes: &[u8], at: usize) -> (f32, u32) {
    match dtype {
        DType::F32 | DType::I32 => {
            let bits =
                u32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]]);
            (f32::from_bits(bits), bits)
        }
        DType::Bf16 | DType::F16 => {
            let bits = u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]);
            let value = if dtype == DType::F16 {
                f16::from_bits(bits).to_f32()
            } else {
                bf16::from_bits(bits).to_f32()
            };
            (value, bits.into())
        }
    }
}
