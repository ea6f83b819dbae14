//! A device whose kernels can do anything: write their inputs, write outside their outputs, write late. Its memory is
//! bytes that any thread may load and store, so that none of this is undefined behaviour.

use std::{
    convert::Infallible,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use half::{bf16, f16};
use lathe::{
    Result,
    device::{DType, Device, HostBytes, View, ViewMut},
};

/// The device.
#[derive(Clone, Debug)]
pub struct Wild;

/// Its memory; a clone is the same memory.
#[derive(Clone, Debug)]
pub struct Memory(Arc<[AtomicU8]>);

impl Device for Wild {
    type Buffer = Memory;
    type Graph = Infallible;
    type Landing = Infallible;

    fn describe(&self) -> String {
        "wild".into()
    }

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        Ok(Memory((0..bytes).map(|_| AtomicU8::new(0)).collect()))
    }

    fn adopt(&self, bytes: &HostBytes, range: Range<usize>) -> Result<Memory> {
        Ok(Memory((**bytes).as_ref()[range].iter().map(|&b| AtomicU8::new(b)).collect()))
    }

    fn write(&self, dst: &mut Memory, offset: usize, src: &[u8]) -> Result<()> {
        dst.0[offset..offset + src.len()].iter().zip(src).for_each(|(to, from)| to.store(*from, Relaxed));
        Ok(())
    }

    fn read(&self, src: &Memory, offset: usize, dst: &mut [u8]) -> Result<()> {
        dst.iter_mut().zip(&src.0[offset..]).for_each(|(to, from)| *to = from.load(Relaxed));
        Ok(())
    }

    fn copy(&self, src: &Memory, from: usize, dst: &mut Memory, to: usize, bytes: usize) -> Result<()> {
        let mut part = vec![0; bytes];
        self.read(src, from, &mut part)?;
        self.write(dst, to, &part)
    }

    fn landing(&self, _: usize) -> Result<Infallible> {
        unreachable!("only an engine wants one")
    }

    fn fetch(&self, _: &Memory, _: usize, _: usize, to: &mut Infallible) -> Result<()> {
        match *to {}
    }

    fn landed<'a>(&self, landing: &'a mut Infallible) -> Result<&'a [u8]> {
        match *landing {}
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> (usize, usize) {
        (1 << 30, 1 << 30)
    }

    fn record(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Infallible> {
        unreachable!("it does not say that it can")
    }

    fn replay(&self, graph: &Infallible) -> Result<()> {
        match *graph {}
    }
}

/// A view's memory and layout, without its bounds.
#[derive(Clone, Debug)]
pub struct Raw {
    memory: Memory,
    pub dtype: DType,
    offset: usize,
    pub shape: Vec<usize>,
    pub stride: usize,
}

impl Raw {
    pub fn of(v: &View<'_, Wild>) -> Self {
        let shape = v.shape().to_vec();
        Self { memory: v.buffer().clone(), dtype: v.dtype(), offset: v.offset(), shape, stride: v.stride() }
    }

    pub fn out(v: &ViewMut<'_, Wild>) -> Self {
        Self::of(&v.as_view())
    }

    /// Elements of a row.
    pub fn row(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// `count` elements from element `at` on, counted from the first one; rows are `stride` apart.
    fn read(&self, at: isize, count: usize) -> Vec<f32> {
        let size = self.dtype.size();
        let mut bytes = vec![0; count * size];
        Wild.read(&self.memory, (self.offset as isize + at) as usize * size, &mut bytes).unwrap();
        let (pairs, fours) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
        match self.dtype {
            DType::F32 => fours.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            DType::Bf16 => pairs.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            DType::F16 => pairs.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            DType::I32 => panic!("integers"),
        }
    }

    /// Element `at`, in the view or not.
    pub fn get(&self, at: isize) -> f32 {
        self.read(at, 1)[0]
    }

    /// Rounds `value` to the dtype and stores it.
    pub fn set(&self, at: isize, value: f32) -> Result<()> {
        let start = (self.offset as isize + at) as usize * self.dtype.size();
        let mut memory = self.memory.clone();
        match self.dtype {
            DType::F32 => Wild.write(&mut memory, start, &value.to_le_bytes()),
            DType::Bf16 => Wild.write(&mut memory, start, &bf16::from_f32(value).to_le_bytes()),
            DType::F16 => Wild.write(&mut memory, start, &f16::from_f32(value).to_le_bytes()),
            DType::I32 => Wild.write(&mut memory, start, &(value as i32).to_le_bytes()),
        }
    }

    /// All values, row after row.
    pub fn values(&self) -> Vec<f32> {
        (0..self.shape[0]).flat_map(|r| self.read((r * self.stride) as isize, self.row())).collect()
    }

    /// Stores values from the first element on, contiguous.
    pub fn fill(&self, values: &[f32]) -> Result<()> {
        values.iter().enumerate().try_for_each(|(at, &v)| self.set(at as isize, v))
    }
}

/// The integers of a view.
pub fn ints(v: &View<'_, Wild>) -> Vec<i32> {
    v.to_vec(&Wild).unwrap()
}
