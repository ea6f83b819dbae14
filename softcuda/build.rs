//! Names the shared library as clients of the CUDA driver look for it, and writes the entry points that are not
//! built: every name in `symbols.txt` that no file of `src/driver` defines gets a stub that says so.

use std::{collections::BTreeSet, env, fmt::Write, fs, path::Path};

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/driver");

    let mut built = BTreeSet::new();
    for entry in fs::read_dir("src/driver").expect("softcuda has src/driver") {
        let path = entry.expect("src/driver can be read").path();
        if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("a source file can be read");
            let definitions = text.split("extern \"C\" fn cu").skip(1);
            built.extend(definitions.filter_map(|d| d.split_once(['(', '<'])).map(|(n, _)| format!("cu{n}")));
        }
    }
    let listed = fs::read_to_string("src/driver/symbols.txt").expect("softcuda has symbols.txt");
    let listed: BTreeSet<String> = listed.lines().map(str::to_string).collect();

    let mut out = String::new();
    for name in listed.difference(&built) {
        writeln!(
            out,
            "#[unsafe(no_mangle)] extern \"C\" fn {name}() -> CUresult {{ not_built(\"{name}\") }}"
        )
        .expect("a string takes any text");
    }
    let all: BTreeSet<&String> = listed.union(&built).collect();
    let declared: String = all.iter().map(|name| format!("pub fn {name}();")).collect();
    let entries: String = all.iter().map(|name| format!("(\"{name}\", symbols::{name}),")).collect();
    write!(
        out,
        "#[allow(clashing_extern_declarations, reason = \"only their addresses are used\")]\n\
         mod symbols {{ unsafe extern \"C\" {{ {declared} }} }}\n\
         static SYMBOLS: [(&str, unsafe extern \"C\" fn()); {}] = [{entries}];",
        all.len()
    )
    .expect("a string takes any text");
    let dir = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&dir).join("symbols.rs"), out).expect("OUT_DIR can be written");
}
