//! Smaller cases. A case is JSON when it is printed, and it is shrunk in that form: numbers go down, lists get
//! shorter, options go away. So no operation has code for it; [`Cases::fits`](super::cases::Cases::fits) says which
//! results make sense.

use serde_json::Value;

/// Every case that is one step smaller than `case`, the boldest steps first. `seed` stays.
pub fn smaller(case: &Value) -> Vec<Value> {
    let Value::Object(fields) = case else { return steps(case) };
    let mut out = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| *name != "seed") {
        for step in steps(value) {
            let mut changed = fields.clone();
            changed.insert(name.clone(), step);
            out.push(Value::Object(changed));
        }
    }
    out
}

fn steps(value: &Value) -> Vec<Value> {
    match value {
        // Null is an option that is not there; where a number must be, the case does not parse and is passed over.
        Value::Number(n) => std::iter::once(Value::Null)
            .chain(match n.as_u64() {
                Some(n) => {
                    let mut steps: Vec<u64> = [1, n / 4, n / 2, n / 16 * 16, n.saturating_sub(1)].into();
                    steps.retain(|&s| s < n);
                    steps.dedup();
                    steps.into_iter().map(Value::from).collect::<Vec<_>>()
                }
                // A factor or a probability: 0 and 1 are simplest, and 0 is simpler than 1.
                None => match n.as_f64() {
                    Some(0.0) => vec![],
                    Some(1.0) => vec![Value::from(0.0)],
                    _ => vec![Value::from(0.0), Value::from(1.0)],
                },
            })
            .collect(),
        Value::Bool(true) => vec![Value::Bool(false)],
        Value::Array(items) => {
            let half = items.len() / 2;
            let mut out = Vec::new();
            if items.len() > 1 {
                out.extend([&items[..half], &items[half..]].map(|part| Value::from(part.to_vec())));
                for i in 0..items.len() {
                    let mut rest = items.clone();
                    rest.remove(i);
                    out.push(Value::Array(rest));
                }
            }
            for (i, item) in items.iter().enumerate() {
                for step in steps(item) {
                    let mut changed = items.clone();
                    changed[i] = step;
                    out.push(Value::Array(changed));
                }
            }
            out
        }
        Value::Object(_) => smaller(value),
        Value::Bool(false) | Value::Null | Value::String(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failure_is_found_in_its_smallest_form() {
        // Fails where some length is at least 17 and the dim at least 3.
        let fails = |v: &Value| {
            let long =
                v["lens"].as_array().unwrap().iter().any(|l| l["kv"].as_u64().is_some_and(|n| n >= 17));
            long && v["dim"].as_u64().is_some_and(|n| n >= 3)
        };
        let mut case =
            json!({"dim": 80, "cap": 5.5, "lens": [{"kv": 5}, {"kv": 300}, {"kv": 40}], "seed": 9});
        while let Some(next) = smaller(&case).into_iter().find(|c| fails(c)) {
            case = next;
        }
        assert_eq!(case, json!({"dim": 3, "cap": null, "lens": [{"kv": 17}], "seed": 9}));
    }
}
