//! The report's page and pictures, drawn from fixed findings and compared with images that were looked at.
//!
//! `LATHE_BLESS=1 cargo test --test pictures` writes the images anew, to be looked at again.

use std::path::Path;

use lathe::device::Peaks;
use lathe::lab::count::{Bounds, Count, Counters, Function, Least};
use lathe::lab::report::{Findings, html, pictures};
use lathe::lab::svg;
use lathe::lab::timing::{Per, Timed};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};
use serde_json::json;

fn timed(op: &str, shape: &str, kernel: &str, seconds: f64, half: f64) -> Timed {
    let (op, shape, kernel) = (op.into(), shape.into(), kernel.into());
    let (per, bytes, flops) = (Per::Bytes, 100_000_000, 200_000_000);
    Timed { op, shape, kernel, per, bytes, flops, seconds, half }
}

/// Two operations on a device of 10 GB/s and 100 GFLOP/s: `sum` with a default that another kernel beats and one that
/// fails, `copy` with a default near the roof.
fn found() -> Findings {
    let checks = json!([
        {
            "op": "sum", "kernel": "tree", "device": "cpu", "verdict": "PASSED", "cases": 80, "failed": 0,
            "unsupported": 0, "seconds": 1.0, "ulps": {"p50": 0.25, "p90": 0.5, "p99": 0.75, "max": 1.5},
            "worst": {
                "case": {"rows": 8, "seed": 1}, "error": 0.003, "relative_error": 0.01, "naive_error": 0.004, "share": 0.5,
                "element": {"tensor": "out", "index": [3, 5], "value": 1.5, "expected": 1.503, "ulps": 0.7},
            },
            "maps": [{
                "tensor": "out", "case": {"dtype": "bf16", "rows": 4}, "rows": ["token", 8], "columns": ["head", 4],
                "cells": [[0.0, 0.25, 0.5, 0.75], [0.1, 0.1, 0.9, 0.1], [0.3, 0.3, 0.3, 0.3], [1.0, 0.0, 0.0, 1.0]],
            }],
        },
        {
            "op": "sum", "kernel": "chunks", "device": "cpu", "verdict": "PASSED", "cases": 80, "failed": 0,
            "unsupported": 0, "seconds": 1.0,
        },
        {
            "op": "sum", "kernel": "tail_lost", "device": "cpu", "verdict": "INCORRECT_NUMERICAL", "cases": 80, "failed": 9,
            "unsupported": 0, "seconds": 1.0,
            "failure": {"case": {"rows": 33}, "message": "8 of 33 elements of out are wrong", "element": null},
            "maps": [{
                "tensor": "out", "case": {"rows": 40}, "rows": ["row", 40], "columns": ["column", 64],
                "cells": [[0.0, 0.2, 0.4, 0.6], [0.0, 0.2, 0.4, 1e6]],
            }],
        },
    ]);
    Findings {
        about: vec![("device".into(), "made <up>".into())],
        command: "lathe report sum".into(),
        kernels: vec![
            ("sum".into(), vec!["tree".into(), "chunks".into(), "tail_lost".into()]),
            ("copy".into(), vec!["rows".into()]),
        ],
        peaks: Some(Peaks { bandwidth: 10e9, flops: 100e9, source: "made up".into() }),
        checks: serde_json::from_value(checks).unwrap(),
        timed: vec![
            timed("sum", "1 row", "tree", 0.040, 0.002),
            timed("sum", "1 row", "chunks", 0.020, 0.001),
            timed("sum", "64 rows", "tree", 0.0125, 0.0005),
            timed("sum", "64 rows", "chunks", 0.0125, 0.003),
            timed("copy", "1 row", "rows", 0.011, 0.0001),
        ],
        ..Findings::default()
    }
}

/// A palette of [`svg::STYLE`]: its first is light, its second dark.
fn palette(index: usize) -> Vec<(String, String)> {
    let block = svg::STYLE.split(":root{").nth(index + 1).unwrap().split('}').next().unwrap();
    let pairs = block.split(';').filter_map(|line| line.split_once(':'));
    pairs.filter(|(name, _)| name.starts_with("--")).map(|(n, v)| (n.into(), v.into())).collect()
}

/// A picture as pixels, with the colours of one palette: the rasteriser knows no variables.
fn draw(picture: &str, palette: &[(String, String)]) -> Pixmap {
    let rules = &svg::STYLE[svg::STYLE.find("svg{").unwrap()..];
    let rules =
        palette.iter().fold(rules.to_owned(), |r, (name, value)| r.replace(&format!("var({name})"), value));
    assert!(!rules.contains("var("), "a colour that the palette lacks: {rules}");
    let tree = Tree::from_str(&picture.replace(svg::STYLE, &rules), &Options::default()).expect("an SVG");
    let size = tree.size().to_int_size();
    let mut pixels = Pixmap::new(size.width(), size.height()).unwrap();
    let background = palette.iter().find(|(name, _)| name == "--bg").unwrap().1.as_str();
    let hex = |at: usize| {
        let digits = &background[1..];
        let width = digits.len() / 3;
        u8::from_str_radix(&digits[at * width..][..width].repeat(3 - width), 16).unwrap()
    };
    pixels.fill(Color::from_rgba8(hex(0), hex(1), hex(2), 255));
    resvg::render(&tree, Transform::identity(), &mut pixels.as_mut());
    pixels
}

/// Pixels that may differ from machine to machine; an edge that moves by one pixel changes more.
const MAY_DIFFER: usize = 8;

/// How many pixels of two pictures of one size are not nearly alike.
fn differing(a: &Pixmap, b: &Pixmap) -> usize {
    let pairs = a.data().chunks_exact(4).zip(b.data().chunks_exact(4));
    pairs.filter(|(a, b)| a.iter().zip(*b).any(|(a, b)| a.abs_diff(*b) > 32)).count()
}

#[test]
fn a_slower_kernel_changes_the_pictures_that_show_it() {
    let right = pictures(&found());
    let mut other = found();
    other.timed[0] = timed("sum", "1 row", "tree", 0.043, 0.002);
    let light = palette(0);
    let changed = |a: &[(String, String)], b: &[(String, String)], name: &str| {
        let of = |all: &[(String, String)]| draw(&all.iter().find(|(n, _)| n == name).unwrap().1, &light);
        differing(&of(a), &of(b)) > MAY_DIFFER
    };
    let slower = pictures(&other);
    assert!(changed(&right, &slower, "sum.svg") && changed(&right, &slower, "roofline.svg"));
    assert!(
        !changed(&right, &slower, "sum-tree-errors.svg") && !changed(&right, &pictures(&found()), "sum.svg")
    );
}

/// Shapes, lengths and colours; without text, whose fonts differ from machine to machine.
#[test]
fn pictures_look_as_they_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let drawn = pictures(&found());
    let names: Vec<&str> = drawn.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["roofline.svg", "sum.svg", "sum-tree-errors.svg", "sum-tail_lost-errors.svg", "copy.svg"]
    );
    for (name, picture) in drawn.iter().filter(|(name, _)| name != "copy.svg") {
        for (mode, tone) in ["light", "dark"].into_iter().enumerate() {
            let file = format!("{}-{tone}.png", name.trim_end_matches(".svg"));
            let pixels = draw(picture, &palette(mode));
            if std::env::var_os("LATHE_BLESS").is_some() {
                pixels.save_png(folder.join(&file)).unwrap();
            }
            let wanted = Pixmap::load_png(folder.join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert_eq!((pixels.width(), pixels.height()), (wanted.width(), wanted.height()), "{file}");
            let differ = differing(&pixels, &wanted);
            if differ > MAY_DIFFER {
                let got = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&file);
                pixels.save_png(&got).unwrap();
                panic!("{file}: {differ} pixels differ; what was drawn is {}", got.display());
            }
        }
    }
}

#[test]
fn the_page_says_what_to_look_at_and_needs_nothing_from_elsewhere() {
    let found = found();
    let what: Vec<String> = found.look_first().into_iter().map(|point| point.what).collect();
    assert_eq!(
        what,
        [
            "sum/tail_lost is INCORRECT_NUMERICAL",
            "sum: another kernel beats the default tree",
            "sum/tree reaches 25% of the roof",
            "sum/tree comes closest to its error budget: 50%",
        ]
    );
    assert!(
        found.look_first()[1].detail.contains("chunks is 2.00 times as fast"),
        "the other shape is within noise"
    );
    let page = html(&found);
    for text in [
        "made &lt;up&gt;",
        "lathe check sum/tail_lost --case",
        "40.0 ms ± 5.0%, 2.50 GB/s",
        "prefers-color-scheme:dark",
    ] {
        assert!(page.contains(text), "{text}");
    }
    for outside in ["http:", "https:", "src=", "url(", "@import", "<link", "<script"] {
        assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
    }
    assert!(!page.contains("Modelled"));
}

#[test]
fn counters_are_labelled_and_never_beside_times() {
    let function = |name: &str, dram: u64| Function {
        name: name.into(),
        launches: 1,
        counters: Counters {
            instructions: 100,
            thread_instructions: 3000,
            l2_sectors: 300,
            global_load_distinct_bytes: 4800,
            global_load_sectors: 300,
            global_store_distinct_bytes: 1600,
            global_store_sectors: 50,
            shared_wavefronts: 30,
            shared_wavefronts_ideal: 20,
            dram_read_bytes: dram,
            dram_write_bytes: 1000,
            ..Counters::default()
        },
    };
    let counted = Count {
        kernel: "sum/tree".into(),
        shape: "1 row".into(),
        case: json!(null),
        least: Least { bytes: 6000, flops: 0 },
        bounds: Bounds::default(),
        functions: vec![function("split", 9000), function("join", 1000)],
    };
    let on_softcuda = Findings { peaks: None, timed: Vec::new(), counted: vec![counted], ..found() };
    assert!(
        on_softcuda
            .look_first()
            .iter()
            .any(|p| p.what == "sum/tree moves 2.00 times the least bytes (modelled)")
    );
    let page = html(&on_softcuda);
    assert!(
        page.contains("<b>Modelled</b> by softcuda")
            && page.contains("<td>tree<td>2<td>200<td>30.0<td>6.00 kB<td>12.0 kB<td>2.00<td>3.20<td>50.0%<td>100.0%<td>50.0%<td>–"),
        "{page}"
    );
    for time in [" µs", " ms", "Roofline", "GB/s"] {
        assert!(!page.contains(time), "{time} beside what is modelled");
    }
}
