//! Which of the schema's definitions is which operation of Lathe's, and a workload as a case.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use lathe_reference::sampling::temper;

use super::schema::{Axis, Definition, Tensor, dtype_name};
use crate::{
    device::DType,
    kernels::{Attention, Linear, RmsNorm, Sample, SeqLen},
    lab::cases::{AttentionCase, Cases, Data, Kind, LinearCase, NormCase, Problem, SampleCase, SampleRow},
};

/// Values of an input that matter.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// A number.
    Scalar(f64),
    /// Indices or lengths.
    Ints(Vec<i32>),
    /// Values with their extents.
    Floats(Vec<usize>, Vec<f32>),
}

/// Extents, and the inputs that are not random, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Values of the variable axes.
    pub axes: IndexMap<String, usize>,
    /// Inputs.
    pub values: BTreeMap<String, Values>,
}

impl Inputs {
    fn of(axes: &[(&str, usize)], values: Vec<(&str, Values)>) -> Self {
        Self {
            axes: axes.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            values: values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }

    fn axis(&self, name: &str) -> Result<usize, String> {
        self.axes.get(name).copied().ok_or_else(|| format!("the workload has no axis {name}"))
    }

    fn ints(&self, name: &str) -> Result<&[i32], String> {
        match self.values.get(name) {
            Some(Values::Ints(values)) => Ok(values),
            _ => Err(format!("the input {name} must come from a file: its values are lengths or indices")),
        }
    }
}

/// An operation that the schema has too.
pub trait Counterpart: Cases {
    /// The definition that a case belongs to; `None` where the schema has none, as for a sliding window.
    fn definition(case: &Self::Case) -> Option<Definition>;

    /// Extents and inputs of a case.
    fn inputs(case: &Self::Case) -> Inputs;

    /// The case of a workload. Random inputs are drawn from `seed`, as those of Lathe's own cases.
    ///
    /// # Errors
    /// What Lathe's operation does not have, or the workload lacks.
    fn case(definition: &Definition, inputs: &Inputs, seed: u64) -> Result<Self::Case, String>;
}

fn axes(constant: &[(&str, usize)], variable: &[&str]) -> IndexMap<String, Axis> {
    let constant = constant.iter().map(|(name, value)| ((*name).to_owned(), Axis::Const { value: *value }));
    constant.chain(variable.iter().map(|name| ((*name).to_owned(), Axis::Var))).collect()
}

fn tensors(all: &[(&str, Tensor)]) -> IndexMap<String, Tensor> {
    all.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect()
}

/// A definition that Lathe writes.
fn definition(name: String, op_type: &str, description: &str, stage: Option<&str>) -> Definition {
    Definition {
        name,
        op_type: op_type.into(),
        description: Some(description.into()),
        tags: stage.map(|stage| format!("stage:{stage}")).into_iter().collect(),
        axes: IndexMap::new(),
        constraints: None,
        inputs: IndexMap::new(),
        outputs: IndexMap::new(),
        reference: String::new(),
    }
}

impl Counterpart for Linear {
    fn definition(c: &LinearCase) -> Option<Definition> {
        if c.bias || c.out != c.dtype {
            return None;
        }
        let dtype = dtype_name(c.dtype);
        Some(Definition {
            axes: axes(&[("N", c.n), ("K", c.k)], &["M"]),
            inputs: tensors(&[
                ("A", Tensor::new(dtype, &["M", "K"])),
                ("B", Tensor::new(dtype, &["N", "K"])),
            ]),
            outputs: tensors(&[("C", Tensor::new(dtype, &["M", "N"]))]),
            reference: "import torch\n\n\ndef run(A, B):\n    return (A.float() @ B.float().T).to(A.dtype)\n"
                .into(),
            ..definition(
                format!("gemm_n{}_k{}{}", c.n, c.k, suffix(c.dtype, DType::F16)),
                "gemm",
                "C = A @ B.T",
                None,
            )
        })
    }

    fn inputs(c: &LinearCase) -> Inputs {
        Inputs::of(&[("M", c.m)], Vec::new())
    }

    fn case(definition: &Definition, inputs: &Inputs, seed: u64) -> Result<LinearCase, String> {
        let (dtype, out) = (definition.dtype("A")?, &definition.outputs);
        if out.get("C").is_none_or(|c| c.dtype != dtype_name(dtype)) || definition.inputs.len() != 2 {
            return Err(format!("{}: expected C = A @ B.T in one dtype", definition.name));
        }
        let (m, n, k) = (inputs.axis("M")?, definition.constant("N")?, definition.constant("K")?);
        Ok(LinearCase { dtype, out: dtype, m, n, k, bias: false, seed })
    }
}

/// What sets a definition apart from the data set's of the same extents, which has dtype `usual`.
fn suffix(dtype: DType, usual: DType) -> String {
    if dtype == usual { String::new() } else { format!("_{}", dtype_name(dtype)) }
}

impl Counterpart for RmsNorm {
    fn definition(c: &NormCase) -> Option<Definition> {
        let (dtype, shape) = (dtype_name(c.dtype), ["batch_size", "hidden_size"]);
        let (prefix, plus) = match c.offset {
            0.0 => ("", ""),
            1.0 => ("gemma_", "1.0 + "),
            _ => return None,
        };
        let reference = format!(
            "import torch\n\nEPS = {:e}\n\n\ndef run(hidden_states, weight):\n    x = hidden_states.float()\n    \
             scale = (x.square().mean(-1, keepdim=True) + EPS).rsqrt()\n    \
             return (x * scale * ({plus}weight.float())).to(hidden_states.dtype)\n",
            c.eps
        );
        let name = format!("{prefix}rmsnorm_h{}{}", c.dim, suffix(c.dtype, DType::Bf16));
        Some(Definition {
            axes: axes(&[("hidden_size", c.dim)], &["batch_size"]),
            inputs: tensors(&[
                ("hidden_states", Tensor::new(dtype, &shape)),
                ("weight", Tensor::new(dtype, &shape[1..])),
            ]),
            outputs: tensors(&[("output", Tensor::new(dtype, &shape))]),
            reference,
            ..definition(
                name,
                "rmsnorm",
                "Root mean square normalisation; eps is fixed in the reference",
                None,
            )
        })
    }

    fn inputs(c: &NormCase) -> Inputs {
        Inputs::of(&[("batch_size", c.rows)], Vec::new())
    }

    fn case(definition: &Definition, inputs: &Inputs, seed: u64) -> Result<NormCase, String> {
        if definition.inputs.contains_key("residual") {
            return Err(format!(
                "{}: its reference normalises the sum in f32, Lathe's add_rms_norm the sum rounded to the dtype",
                definition.name
            ));
        }
        let in_reference = || {
            let (_, rest) = definition.reference.split_once("EPS = ")?;
            rest.split(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).next()?.parse().ok()
        };
        let eps = match inputs.values.get("eps") {
            Some(Values::Scalar(eps)) => *eps,
            _ => in_reference()
                .ok_or(format!("{}: no eps, neither as an input nor as EPS", definition.name))?,
        };
        Ok(NormCase {
            dtype: definition.dtype("hidden_states").or_else(|_| definition.dtype("input"))?,
            rows: inputs.axis("batch_size")?,
            dim: definition.constant("hidden_size")?,
            eps: eps as f32,
            offset: if definition.name.starts_with("gemma_") { 1.0 } else { 0.0 },
            spread: 1.0,
            seed,
        })
    }
}

/// A tensor of integers of a problem.
fn ints<'p>(problem: &'p Problem, name: &str) -> &'p [i32] {
    match problem.tensors.iter().find(|t| t.name == name).map(|t| &t.data) {
        Some(Data::Int(values)) => values,
        _ => &[],
    }
}

impl Counterpart for Attention {
    fn definition(c: &AttentionCase) -> Option<Definition> {
        // A sequence without keys has no pages there, and no defined output.
        if c.window.is_some() || c.softcap.is_some() || c.lens.iter().any(|l| l.q == 0) {
            return None;
        }
        let dtype = dtype_name(c.dtype);
        let is_decode = c.lens.iter().all(|l| l.q == 1);
        let (stage, tokens) = if is_decode { ("decode", "batch_size") } else { ("prefill", "total_q") };
        let kind = if is_decode { "decode" } else { "prefill_causal" };
        let (q, kv) = (
            Tensor::new(dtype, &[tokens, "num_qo_heads", "head_dim"]),
            Tensor::new(dtype, &["num_pages", "page_size", "num_kv_heads", "head_dim"]),
        );
        let mut inputs = vec![
            ("q", q.clone()),
            ("k_cache", kv.clone()),
            ("v_cache", kv),
            ("kv_indptr", Tensor::new("int32", &["len_indptr"])),
            ("kv_indices", Tensor::new("int32", &["num_kv_indices"])),
            ("kv_last_page_len", Tensor::new("int32", &["batch_size"])),
            ("sm_scale", Tensor::scalar("float32")),
        ];
        let mut variable = vec!["batch_size", "num_pages", "len_indptr", "num_kv_indices"];
        if !is_decode {
            inputs.push(("qo_indptr", Tensor::new("int32", &["len_indptr"])));
            variable.push("total_q");
        }
        let AttentionCase { heads, kv_heads, dim, block_size, .. } = *c;
        let constant = [
            ("num_qo_heads", heads),
            ("num_kv_heads", kv_heads),
            ("head_dim", dim),
            ("page_size", block_size),
        ];
        let suffix = suffix(c.dtype, DType::Bf16);
        let name = format!("gqa_paged_{kind}_h{heads}_kv{kv_heads}_d{dim}_ps{block_size}{suffix}");
        Some(Definition {
            axes: axes(&constant, &variable),
            constraints: Some(vec![
                "len_indptr == batch_size + 1".into(),
                "num_kv_indices == kv_indptr[-1].item()".into(),
            ]),
            inputs: tensors(&inputs),
            outputs: tensors(&[("output", q)]),
            reference: attention_reference(is_decode),
            ..definition(name, "gqa_paged", "Causal attention over a paged KV cache", Some(stage))
        })
    }

    fn inputs(c: &AttentionCase) -> Inputs {
        let problem = Self::problem(c);
        let (table, batch) = (ints(&problem, "block_table"), c.lens.len());
        let pages = problem.tensors.iter().find(|t| t.name == "k_cache").map_or(0, |t| t.shape[0]);
        let (mut indptr, mut indices, mut last, mut qo) = (vec![0], Vec::new(), Vec::new(), vec![0]);
        for (row, l) in table.chunks(table.len() / batch).zip(&c.lens) {
            indices.extend(&row[..l.kv.div_ceil(c.block_size)]);
            indptr.push(indices.len() as i32);
            last.push(((l.kv - 1) % c.block_size + 1) as i32);
            qo.push(qo[qo.len() - 1] + l.q as i32);
        }
        let mut axes = vec![
            ("batch_size", batch),
            ("num_pages", pages),
            ("len_indptr", batch + 1),
            ("num_kv_indices", indices.len()),
        ];
        let mut values = vec![
            ("kv_indptr", Values::Ints(indptr)),
            ("kv_indices", Values::Ints(indices)),
            ("kv_last_page_len", Values::Ints(last)),
            ("sm_scale", Values::Scalar((c.dim as f64).powf(-0.5))),
        ];
        if c.lens.iter().any(|l| l.q > 1) {
            axes.push(("total_q", qo[batch] as usize));
            values.push(("qo_indptr", Values::Ints(qo)));
        }
        Inputs::of(&axes, values)
    }

    fn case(definition: &Definition, inputs: &Inputs, seed: u64) -> Result<AttentionCase, String> {
        let constant = |axis| definition.constant(axis);
        let (dim, page) = (constant("head_dim")?, constant("page_size")?);
        let indptr = inputs.ints("kv_indptr")?;
        let pages = differences(indptr, "kv_indptr")?;
        // Without it, every page is full.
        let last = match inputs.values.get("kv_last_page_len") {
            Some(Values::Ints(last)) if last.len() == pages.len() => {
                last.iter().map(|&l| l.max(0) as usize).collect()
            }
            None if page == 1 => vec![1; pages.len()],
            _ => return Err("kv_last_page_len must come from a file, with an entry a sequence".into()),
        };
        let queries = match definition.inputs.contains_key("qo_indptr") {
            true => differences(inputs.ints("qo_indptr")?, "qo_indptr")?,
            false => vec![1; pages.len()],
        };
        if queries.len() != pages.len() {
            return Err(format!("qo_indptr is of {} sequences, kv_indptr of {}", queries.len(), pages.len()));
        }
        if let Some(Values::Scalar(scale)) = inputs.values.get("sm_scale") {
            let own = (dim as f64).powf(-0.5);
            if (scale / own - 1.0).abs() > 1e-3 {
                return Err(format!("sm_scale is {scale}, expected {own}, the root of 1 / head_dim"));
            }
        }
        let kv = pages
            .iter()
            .zip(last)
            .map(|(&pages, last)| pages.saturating_sub(1) * page + last.min(pages * page));
        let lens = queries.into_iter().zip(kv).map(|(q, kv)| SeqLen { q, kv }).collect();
        Ok(AttentionCase {
            dtype: definition.dtype("q")?,
            heads: constant("num_qo_heads")?,
            kv_heads: constant("num_kv_heads")?,
            dim,
            // Lathe's blocks are multiples of 16 tokens: the same lengths in such blocks.
            block_size: page.next_multiple_of(16),
            window: None,
            softcap: None,
            lens,
            spread: 1.0,
            seed,
        })
    }
}

/// The lengths between offsets.
fn differences(offsets: &[i32], name: &str) -> Result<Vec<usize>, String> {
    let lengths = offsets.windows(2).map(|pair| usize::try_from(pair[1] - pair[0]));
    lengths.collect::<Result<_, _>>().map_err(|_| format!("{name} goes down"))
}

fn attention_reference(is_decode: bool) -> String {
    let (argument, queries) = match is_decode {
        true => ("", "range(b, b + 1)"),
        false => (", qo_indptr", "range(int(qo_indptr[b]), int(qo_indptr[b + 1]))"),
    };
    format!(
        "import torch\n\n\n\
         def run(q, k_cache, v_cache, kv_indptr, kv_indices, kv_last_page_len, sm_scale{argument}):\n    \
         out = torch.zeros_like(q)\n    \
         group = q.shape[1] // k_cache.shape[2]\n    \
         for b in range(len(kv_indptr) - 1):\n        \
         pages = kv_indices[int(kv_indptr[b]) : int(kv_indptr[b + 1])].long()\n        \
         length = (len(pages) - 1) * k_cache.shape[1] + int(kv_last_page_len[b])\n        \
         k = k_cache[pages].flatten(0, 1)[:length].float().repeat_interleave(group, 1)\n        \
         v = v_cache[pages].flatten(0, 1)[:length].float().repeat_interleave(group, 1)\n        \
         queries = {queries}\n        \
         for i, row in enumerate(queries):\n            \
         end = length - len(queries) + i + 1\n            \
         scores = torch.einsum(\"hd,thd->ht\", q[row].float(), k[:end]) * sm_scale\n            \
         out[row] = torch.einsum(\"ht,thd->hd\", scores.softmax(-1), v[:end]).to(q.dtype)\n    \
         return out\n"
    )
}

impl Counterpart for Sample {
    fn definition(c: &SampleCase) -> Option<Definition> {
        // Greedy rows and unusable ones have no counterpart.
        let usable =
            |row: &SampleRow| !row.greedy && !matches!(row.kind, Kind::Nan | Kind::Infinite | Kind::Empty);
        let (k, p) = (c.rows.iter().any(|r| r.top_k > 0), c.rows.iter().any(|r| r.top_p < 1.0));
        if !c.rows.iter().all(usable) || !k && !p {
            return None;
        }
        let kind = match (k, p) {
            (true, true) => "top_k_top_p",
            (true, false) => "top_k",
            _ => "top_p",
        };
        let mut inputs = vec![("probs", Tensor::new("float32", &["batch_size", "vocab_size"]))];
        inputs.extend(k.then(|| ("top_k", Tensor::new("int32", &["batch_size"]))));
        inputs.extend(p.then(|| ("top_p", Tensor::new("float32", &["batch_size"]))));
        Some(Definition {
            axes: axes(&[("vocab_size", c.vocab)], &["batch_size"]),
            inputs: tensors(&inputs),
            outputs: tensors(&[("samples", Tensor::new("int64", &["batch_size"]))]),
            reference: sampling_reference(k, p),
            ..definition(
                format!("{kind}_sampling_from_probs_v{}", c.vocab),
                "sampling",
                "Sampling from what top-k and then top-p leave",
                None,
            )
        })
    }

    fn inputs(c: &SampleCase) -> Inputs {
        let probs = |(r, row): (usize, &SampleRow)| {
            let mut logits = row.kind.logits(c.vocab, c.seed + r as u64);
            if !row.greedy {
                temper(&mut logits, row.temperature);
            }
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> = logits.iter().map(|l| f64::from(l - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            weights.into_iter().map(move |w| (w / sum) as f32)
        };
        let probs: Vec<f32> = c.rows.iter().enumerate().flat_map(probs).collect();
        let mut values = vec![("probs", Values::Floats(vec![c.rows.len(), c.vocab], probs))];
        if c.rows.iter().any(|r| r.top_k > 0) {
            // Off is all of the vocabulary there.
            let all = c.vocab as i32;
            let ks = c.rows.iter().map(|r| if r.top_k == 0 { all } else { r.top_k.min(all) });
            values.push(("top_k", Values::Ints(ks.collect())));
        }
        if c.rows.iter().any(|r| r.top_p < 1.0) {
            let ps = c.rows.iter().map(|r| r.top_p as f32).collect();
            values.push(("top_p", Values::Floats(vec![c.rows.len()], ps)));
        }
        Inputs::of(&[("batch_size", c.rows.len())], values)
    }

    /// The probabilities are not taken over: the rows' logits are normal ones.
    fn case(definition: &Definition, inputs: &Inputs, seed: u64) -> Result<SampleCase, String> {
        let (batch, vocab) = (inputs.axis("batch_size")?, definition.constant("vocab_size")?);
        let ks = match inputs.values.get("top_k") {
            Some(Values::Ints(ks)) if ks.len() == batch => ks.clone(),
            _ if definition.inputs.contains_key("top_k") => vec![50.min(vocab as i32); batch],
            _ => vec![0; batch],
        };
        let ps = match inputs.values.get("top_p") {
            Some(Values::Floats(_, ps)) if ps.len() == batch => ps.clone(),
            _ if definition.inputs.contains_key("top_p") => vec![0.9; batch],
            _ => vec![1.0; batch],
        };
        let row = |(i, (k, p)): (usize, (i32, f32))| SampleRow {
            kind: Kind::Normal,
            greedy: p <= 0.0,
            temperature: 1.0,
            top_k: if k as usize >= vocab { 0 } else { k.max(0) },
            top_p: if p <= 0.0 { 1.0 } else { f64::from(p.min(1.0)) },
            key: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64),
            position: i as i32,
        };
        Ok(SampleCase { vocab, rows: ks.into_iter().zip(ps).enumerate().map(row).collect(), seed })
    }
}

fn sampling_reference(k: bool, p: bool) -> String {
    let mut code = format!(
        "import torch\n\n\ndef run(probs{}{}):\n    \
         values, order = probs.float().sort(-1, descending=True, stable=True)\n",
        if k { ", top_k" } else { "" },
        if p { ", top_p" } else { "" }
    );
    if k {
        code += "    ranks = torch.arange(probs.shape[1], device=probs.device)\n    \
                 values = values.masked_fill(ranks >= top_k[:, None], 0)\n    \
                 values = values / values.sum(-1, keepdim=True)\n";
    }
    if p {
        code += "    before = values.cumsum(-1) - values\n    \
                 values = values.masked_fill(before > top_p[:, None], 0)\n";
    }
    code + "    return order.gather(-1, values.multinomial(1))[:, 0]\n"
}
