//! Attention: the same bits however a query is computed.

use lathe::{
    device::{Cpu, DType, Element, Tensor, View},
    kernels::{Attention, AttentionArgs, Queue, Registry, SeqLen, Slot, run},
    lab::cases::{FLOATS, noise},
};

use crate::devices;

#[derive(Clone, Debug)]
struct Case {
    dtype: DType,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    block_size: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    lens: Vec<(usize, usize)>,
}

/// A batch: q of all tokens of every sequence (also those before its new ones), caches with NaN where no token is.
struct Batch {
    case: Case,
    /// `[kv, heads, dim]` of each sequence.
    q: Vec<Vec<f32>>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Blocks of each sequence.
    table: Vec<Vec<i32>>,
}

impl Batch {
    fn new(case: &Case) -> Self {
        let c = case.clone();
        let mut blocks: Vec<i32> = c
            .lens
            .iter()
            .flat_map(|&(_, kv)| 0..kv.div_ceil(c.block_size))
            .enumerate()
            .map(|(i, _)| i as i32)
            .collect();
        // An odd multiplier permutes; two more blocks belong to nobody.
        let total = blocks.len() + 2;
        let step = (3..).step_by(2).find(|s| gcd(*s, total) == 1).unwrap();
        blocks.iter_mut().for_each(|b| *b = ((*b as usize * step + 1) % total) as i32);
        let row = c.kv_heads * c.dim;
        let mut k = vec![f32::NAN; total * c.block_size * row];
        let mut v = k.clone();
        let (mut q, mut table) = (Vec::new(), Vec::new());
        let mut rest = &blocks[..];
        for (s, &(_, kv)) in c.lens.iter().enumerate() {
            let (own, others) = rest.split_at(kv.div_ceil(c.block_size));
            rest = others;
            let seed = 100 * s as u64;
            q.push(noise(c.dtype, seed, kv * c.heads * c.dim, 1.0));
            let (keys, values) =
                (noise(c.dtype, seed + 1, kv * row, 1.0), noise(c.dtype, seed + 2, kv * row, 1.0));
            for t in 0..kv {
                let slot = own[t / c.block_size] as usize * c.block_size + t % c.block_size;
                k[slot * row..][..row].copy_from_slice(&keys[t * row..][..row]);
                v[slot * row..][..row].copy_from_slice(&values[t * row..][..row]);
            }
            table.push(own.to_vec());
        }
        Self { case: c, q, k, v, table }
    }

    /// The queries `lens` (new, all) of the sequences `seqs`, concatenated, and the padded block table.
    fn inputs(&self, seqs: &[usize], lens: &[SeqLen]) -> (Vec<f32>, Vec<i32>, usize) {
        let row = self.case.heads * self.case.dim;
        let mut q = Vec::new();
        let width = seqs.iter().map(|&s| self.table[s].len()).max().unwrap() + 1;
        let mut table = vec![i32::MAX; seqs.len() * width];
        for ((i, &s), l) in seqs.iter().enumerate().zip(lens) {
            q.extend_from_slice(&self.q[s][(l.kv - l.q) * row..l.kv * row]);
            table[i * width..][..self.table[s].len()].copy_from_slice(&self.table[s]);
        }
        (q, table, width)
    }

    fn run(&self, dev: &Cpu, kernel: &Slot<Attention, Cpu>, seqs: &[usize], lens: &[SeqLen]) -> Vec<f32> {
        let c = &self.case;
        let (q, table, width) = self.inputs(seqs, lens);
        let tokens: usize = lens.iter().map(|l| l.q).sum();
        // q lies in a packed qkv tensor; the columns around it are NaN.
        let (row, gap) = (c.heads * c.dim, c.dim);
        let mut packed = vec![f32::NAN; tokens * (row + 2 * gap)];
        for (to, from) in packed.chunks_exact_mut(row + 2 * gap).zip(q.chunks_exact(row)) {
            to[gap..gap + row].copy_from_slice(from);
        }
        let packed = tensor(dev, c.dtype, &packed, &[tokens, c.heads + 2, c.dim]);
        let blocks = self.k.len() / (c.block_size * c.kv_heads * c.dim);
        let shape = [blocks, c.block_size, c.kv_heads, c.dim];
        let k = tensor(dev, c.dtype, &self.k, &shape);
        let v = tensor(dev, c.dtype, &self.v, &shape);
        let block_table = Tensor::from_slice(dev, &table, &[seqs.len(), width]).unwrap();
        let mut starts = vec![5];
        lens.iter().for_each(|l| starts.push(starts.last().unwrap() + l.q as i32));
        let q_start = Tensor::from_slice(dev, &starts, &[starts.len()]).unwrap();
        let kv_len: Vec<i32> = lens.iter().map(|l| l.kv as i32).collect();
        let kv_len = Tensor::from_slice(dev, &kv_len, &[lens.len()]).unwrap();
        let mut out = Tensor::zeros(dev, c.dtype, &[tokens, c.heads, c.dim]).unwrap();
        let args = AttentionArgs {
            q: packed.view().columns(1..c.heads + 1),
            k_cache: k.view(),
            v_cache: v.view(),
            block_table: block_table.view(),
            q_start: q_start.view(),
            kv_len: kv_len.view(),
            lens,
            scale: (c.dim as f32).powf(-0.5),
            window: c.window,
            softcap: c.softcap,
            out: out.view_mut(),
        };
        run(&**kernel, &mut Queue::new(dev).unwrap(), args).unwrap();
        widen(dev, &out.view())
    }

    fn all(&self) -> (Vec<usize>, Vec<SeqLen>) {
        let lens = self.case.lens.iter().map(|&(q, kv)| SeqLen { q, kv });
        ((0..self.case.lens.len()).collect(), lens.collect())
    }
}

/// A tensor of `dtype` with these values, which must be exact in it.
fn tensor(dev: &Cpu, dtype: DType, values: &[f32], shape: &[usize]) -> Tensor<Cpu> {
    fn of<T: Element>(dev: &Cpu, values: &[f32], shape: &[usize], to: fn(f32) -> T) -> Tensor<Cpu> {
        let values: Vec<T> = values.iter().map(|&v| to(v)).collect();
        Tensor::from_slice(dev, &values, shape).unwrap()
    }
    match dtype {
        DType::F32 => of(dev, values, shape, |v| v),
        DType::Bf16 => of(dev, values, shape, half::bf16::from_f32),
        DType::F16 => of(dev, values, shape, half::f16::from_f32),
        DType::I32 => panic!("not a float"),
    }
}

fn widen(dev: &Cpu, v: &View<'_, Cpu>) -> Vec<f32> {
    match v.dtype() {
        DType::F32 => v.to_vec::<f32>(dev).unwrap(),
        DType::Bf16 => v.to_vec::<half::bf16>(dev).unwrap().into_iter().map(Into::into).collect(),
        DType::F16 => v.to_vec::<half::f16>(dev).unwrap().into_iter().map(Into::into).collect(),
        DType::I32 => panic!("not a float"),
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Ragged lengths over every head size, block size and group, with and without window and soft-cap.
fn cases() -> Vec<Case> {
    let lens: [&[(usize, usize)]; 6] = [
        &[(1, 1), (7, 7), (33, 33), (129, 129)],
        &[(1, 129), (1, 128), (1, 127), (1, 300)],
        &[(7, 40), (1, 257), (33, 161), (3, 3), (130, 130)],
        &[(1, 700)],
        &[(65, 193), (1, 16)],
        &[(12, 500), (1, 1)],
    ];
    let mut cases = Vec::new();
    for (i, dim) in [16, 32, 64, 80, 96, 128, 256, 20].into_iter().enumerate() {
        for (j, (heads, kv_heads)) in
            [(1, 1), (4, 2), (3, 1), (8, 2), (5, 1), (6, 1), (7, 1), (8, 1), (9, 3)].into_iter().enumerate()
        {
            let n = i * 9 + j;
            // Every combination would take minutes; each pair of neighbours occurs.
            if n % 3 != i % 3 && j > 2 {
                continue;
            }
            cases.push(Case {
                dtype: FLOATS[n % 3],
                heads,
                kv_heads,
                dim,
                block_size: [16, 48, 256][(n / 2) % 3],
                window: [None, Some(1), None, Some(40), Some(200)][n % 5],
                softcap: [None, None, Some(5.0), Some(50.0)][n % 4],
                lens: lens[n % 6].to_vec(),
            });
        }
    }
    cases
}

/// What each query gives when computed alone, by the decode path.
#[test]
fn a_query_has_the_same_bits_in_any_batch_chunk_and_path() {
    for (i, mut case) in cases().into_iter().enumerate().filter(|(i, _)| i % 3 == 0) {
        case.lens = vec![(70, 70), (200, 200), (1, 333), (9, 9)];
        let batch = Batch::new(&case);
        let row = case.heads * case.dim;
        let (seqs, lens) = batch.all();
        for dev in devices() {
            let kernel = &Registry::cpu().attention[0];
            let whole = batch.run(&dev, kernel, &seqs, &lens);
            let mut token = 0;
            for (&s, l) in seqs.iter().zip(&lens) {
                let want = &whole[token * row..(token + l.q) * row];
                token += l.q;
                // The prompt in pieces of 7 and of 64, each alone; single queries as decode.
                for piece in [7, 64, 1] {
                    let step = if piece == 1 { 13 } else { piece };
                    for first in (0..l.q).step_by(step) {
                        let q = piece.min(l.q - first);
                        let lens = [SeqLen { q, kv: l.kv - l.q + first + q }];
                        let got = batch.run(&dev, kernel, &[s], &lens);
                        let want = &want[first * row..(first + q) * row];
                        assert!(same_bits(&got, want), "case {i} {case:?}: {q} from {first} of sequence {s}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for (dim, dtype) in [(64, DType::Bf16), (80, DType::F16), (128, DType::F32)] {
        // One long sequence and three of different lengths: split over chunks where threads outnumber groups.
        for lens in [vec![(1, 9_000)], vec![(1, 3), (1, 1_500), (1, 129)], vec![(300, 700), (64, 64)]] {
            let case = Case {
                dtype,
                heads: 6,
                kv_heads: 2,
                dim,
                block_size: 48,
                window: (dim == 80).then_some(1_000),
                softcap: None,
                lens,
            };
            let batch = Batch::new(&case);
            let (seqs, lens) = batch.all();
            let kernel = &Registry::cpu().attention[0];
            let one = batch.run(&Cpu::new(Some(1)), kernel, &seqs, &lens);
            assert!(one.iter().all(|v| v.is_finite()));
            for threads in [2, 3, 8] {
                let many = batch.run(&Cpu::new(Some(threads)), kernel, &seqs, &lens);
                assert!(same_bits(&one, &many), "{threads} threads, {case:?}");
            }
        }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
