//! Taking times of whole commands, one after the other in turn.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Result;

/// A command to be timed.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    pub(crate) command: Box<dyn Fn() -> Command + 'a>,
}

/// Wall times of each contender in milliseconds, `rounds` of each, taken in turn after two rounds that do not count.
pub(crate) fn interleave(contenders: &[Contender<'_>], rounds: usize) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds + 2 {
        for turn in 0..contenders.len() {
            // Each takes every place in the row: what one leaves behind (podman goes on cleaning up after it has ended) must
            // not always hit the same.
            let index = (round + turn) % contenders.len();
            let (Some(contender), Some(times)) = (contenders.get(index), times.get_mut(index)) else { continue };
            let mut command = (contender.command)();
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let begun = Instant::now();
            let output = command.output().map_err(|e| format!("{}: {e}", contender.name))?;
            let elapsed = begun.elapsed().as_secs_f64() * 1e3;
            if !output.status.success() {
                let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(format!("{}: {}: {words}", contender.name, output.status));
            }
            if round >= 2 {
                times.push(elapsed);
            }
        }
    }
    Ok(times)
}

/// The middle value; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
