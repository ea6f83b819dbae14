//! Tensors: a buffer, a dtype and up to four extents; views whose rows may be apart.

use std::{fmt, ops::Range};

use half::{bf16, f16};

use super::Device;
use crate::error::Result;

/// Element types.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// bfloat16: the upper half of an F32.
    Bf16,
    /// IEEE binary16.
    F16,
    /// 32-bit integers: ids, positions, lengths.
    I32,
}

impl DType {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::I32 => "i32",
        })
    }
}

/// A Rust type that is the element of a tensor.
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + fmt::Debug {
    /// Its tag.
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

/// Up to four extents, outermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; 4],
    rank: u8,
}

impl Shape {
    /// Panics on more than four extents.
    pub fn new(dims: &[usize]) -> Self {
        let mut s = Self { dims: [1; 4], rank: dims.len() as u8 };
        s.dims[..dims.len()].copy_from_slice(dims);
        s
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// Elements of one index of the outermost extent.
    fn row(&self) -> usize {
        self.dims().iter().skip(1).product()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dims().fmt(f)
    }
}

/// An owned, contiguous tensor on `D`.
#[derive(Debug)]
pub struct Tensor<D: Device> {
    buffer: D::Buffer,
    dtype: DType,
    shape: Shape,
}

impl<D: Device> Tensor<D> {
    /// Zeros.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn zeros(dev: &D, dtype: DType, shape: &[usize]) -> Result<Self> {
        let shape = Shape::new(shape);
        Ok(Self { buffer: dev.alloc(shape.elements() * dtype.size())?, dtype, shape })
    }

    /// The values of `data`, whose length is the product of `shape` (panics otherwise).
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn from_slice<T: Element>(dev: &D, data: &[T], shape: &[usize]) -> Result<Self> {
        let mut t = Self::zeros(dev, T::DTYPE, shape)?;
        assert_eq!(t.shape.elements(), data.len(), "shape {shape:?} for {} elements", data.len());
        dev.write(&mut t.buffer, 0, bytemuck::cast_slice(data))?;
        Ok(t)
    }

    /// A buffer seen as a tensor. The buffer holds at least the product of `shape` elements.
    pub fn from_buffer(buffer: D::Buffer, dtype: DType, shape: &[usize]) -> Self {
        Self { buffer, dtype, shape: Shape::new(shape) }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.size()
    }

    /// The whole tensor, to read.
    pub fn view(&self) -> View<'_, D> {
        let stride = self.shape.row();
        View { buffer: &self.buffer, offset: 0, stride, dtype: self.dtype, shape: self.shape }
    }

    /// The whole tensor, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, D> {
        let stride = self.shape.row();
        ViewMut { buffer: &mut self.buffer, offset: 0, stride, dtype: self.dtype, shape: self.shape }
    }

    /// Rows `range` of the outermost extent, to read.
    pub fn rows(&self, range: Range<usize>) -> View<'_, D> {
        self.view().rows(range)
    }

    /// Rows `range` of the outermost extent, to write.
    pub fn rows_mut(&mut self, range: Range<usize>) -> ViewMut<'_, D> {
        self.view_mut().rows(range)
    }

    /// Copies `data` to the first elements. Panics if it is longer than the tensor or of another type.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the copy fails.
    pub fn write<T: Element>(&mut self, dev: &D, data: &[T]) -> Result<()> {
        assert_eq!(T::DTYPE, self.dtype);
        assert!(data.len() <= self.shape.elements(), "write {} to {:?}", data.len(), self.shape);
        dev.write(&mut self.buffer, 0, bytemuck::cast_slice(data))
    }

    /// All values.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when earlier work or the copy failed. Panics if `T` is not the dtype.
    pub fn to_vec<T: Element>(&self, dev: &D) -> Result<Vec<T>> {
        self.view().to_vec(dev)
    }
}

/// A borrowed tensor whose outermost rows may be further apart than they are long (a column slice).
#[derive(Debug)]
pub struct View<'a, D: Device> {
    buffer: &'a D::Buffer,
    /// In elements.
    offset: usize,
    /// From one row to the next, in elements.
    stride: usize,
    dtype: DType,
    shape: Shape,
}

impl<D: Device> Clone for View<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Device> Copy for View<'_, D> {}

/// As [`View`], to write.
#[derive(Debug)]
pub struct ViewMut<'a, D: Device> {
    buffer: &'a mut D::Buffer,
    offset: usize,
    stride: usize,
    dtype: DType,
    shape: Shape,
}

/// The (offset, stride, shape) of a reshaped or sliced view; one place for both mutabilities.
fn rows_of(offset: usize, stride: usize, shape: Shape, range: Range<usize>) -> (usize, Shape) {
    assert!(range.start <= range.end && range.end <= shape.dims[0], "rows {range:?} of {shape:?}");
    let mut s = shape;
    s.dims[0] = range.len();
    (offset + range.start * stride, s)
}

fn reshaped(stride: usize, shape: Shape, dims: &[usize]) -> (usize, Shape) {
    let s = Shape::new(dims);
    assert_eq!(s.elements(), shape.elements(), "reshape {shape:?} to {dims:?}");
    if stride == shape.row() || shape.dims[0] <= 1 {
        (s.row(), s)
    } else {
        assert_eq!(s.dims[0], shape.dims[0], "reshape of apart rows {shape:?} to {dims:?}");
        (stride, s)
    }
}

impl<'a, D: Device> View<'a, D> {
    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// The memory that it lies in.
    pub fn buffer(&self) -> &'a D::Buffer {
        self.buffer
    }

    /// Where it starts in [`Self::buffer`], in elements.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// From one outermost row to the next, in elements.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Whether the rows follow each other without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.stride == self.shape.row() || self.shape.dims[0] <= 1
    }

    /// Rows `range`. Panics if it is out of range.
    pub fn rows(self, range: Range<usize>) -> Self {
        let (offset, shape) = rows_of(self.offset, self.stride, self.shape, range);
        Self { offset, shape, ..self }
    }

    /// The same elements with other extents. Rows that lie apart keep their outermost extent (panics).
    pub fn reshape(self, dims: &[usize]) -> Self {
        let (stride, shape) = reshaped(self.stride, self.shape, dims);
        Self { stride, shape, ..self }
    }

    /// `range` of the second extent of every row: e.g. the key heads of a packed q, k, v tensor.
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(
            range.end <= self.shape.dims[1] && self.shape.rank >= 2,
            "columns {range:?} of {:?}",
            self.shape
        );
        let inner: usize = self.shape.dims().iter().skip(2).product();
        let mut shape = self.shape;
        shape.dims[1] = range.len();
        Self { offset: self.offset + range.start * inner, shape, ..self }
    }

    /// All values, row after row.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when earlier work or the copy failed. Panics if `T` is not the dtype.
    pub fn to_vec<T: Element>(&self, dev: &D) -> Result<Vec<T>> {
        let mut out = Vec::new();
        self.read_to(dev, &mut out)?;
        Ok(out)
    }

    /// As [`Self::to_vec`], in place of what `out` holds.
    ///
    /// # Errors
    /// As [`Self::to_vec`].
    pub fn read_to<T: Element>(&self, dev: &D, out: &mut Vec<T>) -> Result<()> {
        assert_eq!(T::DTYPE, self.dtype);
        out.clear();
        out.resize(self.elements(), T::zeroed());
        let row = if self.is_contiguous() { out.len() } else { self.shape.row() };
        for (i, dst) in out.chunks_exact_mut(row.max(1)).enumerate() {
            let at = (self.offset + i * self.stride) * self.dtype.size();
            dev.read(self.buffer, at, bytemuck::cast_slice_mut(dst))?;
        }
        Ok(())
    }
}

impl<'a, D: Device> ViewMut<'a, D> {
    /// The same elements, to read.
    pub fn as_view(&self) -> View<'_, D> {
        View {
            buffer: self.buffer,
            offset: self.offset,
            stride: self.stride,
            dtype: self.dtype,
            shape: self.shape,
        }
    }

    /// A shorter borrow of the same view.
    pub fn reborrow(&mut self) -> ViewMut<'_, D> {
        ViewMut {
            buffer: self.buffer,
            offset: self.offset,
            stride: self.stride,
            dtype: self.dtype,
            shape: self.shape,
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// The memory that it lies in.
    pub fn buffer_mut(&mut self) -> &mut D::Buffer {
        self.buffer
    }

    /// Where it starts in the buffer, in elements.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// From one outermost row to the next, in elements.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Rows `range`. Panics if it is out of range.
    pub fn rows(self, range: Range<usize>) -> Self {
        let (offset, shape) = rows_of(self.offset, self.stride, self.shape, range);
        Self { offset, shape, ..self }
    }

    /// The same elements with other extents; see [`View::reshape`].
    pub fn reshape(self, dims: &[usize]) -> Self {
        let (stride, shape) = reshaped(self.stride, self.shape, dims);
        Self { stride, shape, ..self }
    }
}
