//! A row's token does not depend on its batch, its place in it or the threads. The tokens themselves are the lab's
//! business.

use lathe::{
    device::{Cpu, Tensor},
    kernels::{Queue, Registry, SampleArgs, SampleSpec, run},
    lab::cases::{Kind, SampleRow},
};
use lathe_reference::sampling::top_p_tail;

fn sample(dev: &Cpu, logits: &[Vec<f32>], rows: &[SampleRow]) -> Vec<i32> {
    let params: Vec<i32> = rows.iter().flat_map(SampleRow::params).collect();
    let temperatures: Vec<f32> = rows.iter().map(|r| r.temperature).collect();
    let tails: Vec<f32> = rows.iter().map(|r| top_p_tail(r.top_p)).collect();
    let logits = Tensor::from_slice(dev, &logits.concat(), &[rows.len(), logits[0].len()]).unwrap();
    let params = Tensor::from_slice(dev, &params, &[rows.len(), 5]).unwrap();
    let temperatures = Tensor::from_slice(dev, &temperatures, &[rows.len()]).unwrap();
    let tails = Tensor::from_slice(dev, &tails, &[rows.len()]).unwrap();
    let mut out = Tensor::from_slice(dev, &vec![-2; rows.len()], &[rows.len()]).unwrap();
    let args = SampleArgs {
        logits: logits.view(),
        temperature: temperatures.view(),
        top_p_tail: tails.view(),
        params: params.view(),
        spec: SampleSpec { random: true, truncated: true },
        out: out.view_mut(),
    };
    run(&*Registry::cpu().sample[0], &mut Queue::new(dev).unwrap(), args).unwrap();
    out.to_vec(dev).unwrap()
}

#[test]
fn tokens_do_not_depend_on_the_batch() {
    let logits: Vec<Vec<f32>> = Kind::ALL.into_iter().map(|kind| kind.logits(20_011, 3)).collect();
    let row = |(i, kind)| SampleRow {
        kind,
        greedy: i == 4,
        temperature: [1.0, 0.7][i % 2],
        top_k: [0, 50, 0][i % 3],
        top_p: [1.0, 0.9, 0.95][i % 3],
        key: i as u64,
        position: 9,
    };
    let rows: Vec<SampleRow> = Kind::ALL.into_iter().enumerate().map(row).collect();
    let many = sample(&Cpu::new(Some(4)), &logits, &rows);
    for (i, (logits, row)) in logits.iter().zip(&rows).enumerate() {
        let alone = sample(&Cpu::new(Some(1)), std::slice::from_ref(logits), &[*row]);
        assert_eq!(alone, [many[i]], "row {i}");
        assert_eq!(many[i], row.token(logits), "row {i}");
    }
}
