//! One number with a unit: its target, its samples, its outcome.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A figure, its target and its yardstick.
#[derive(Debug)]
pub struct Figure {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    target: Option<Target>,
    yardstick: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// At least this fraction of the yardstick.
    AtLeastOfYardstick(f64),
    /// At most this multiple of the yardstick.
    AtMostOfYardstick(f64),
}

/// The value of a figure in one run.
#[derive(Clone, Debug)]
pub struct Sample {
    pub figure: &'static Figure,
    pub value: f64,
    pub yardstick: Option<f64>,
}

/// A figure after all runs: medians and samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub name: String,
    pub title: String,
    pub unit: String,
    pub value: f64,
    pub samples: Vec<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yardstick: Option<Yardstick>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Yardstick {
    pub what: String,
    pub value: f64,
}

impl Figure {
    /// The name is the key in `bench.json` and stays the same between releases. Title and unit are for people.
    pub const fn new(name: &'static str, title: &'static str, unit: &'static str) -> Self {
        Self { name, title, unit, target: None, yardstick: None }
    }

    pub const fn at_most(self, limit: f64) -> Self {
        Self { target: Some(Target::AtMost(limit)), ..self }
    }

    pub const fn at_least(self, limit: f64) -> Self {
        Self { target: Some(Target::AtLeast(limit)), ..self }
    }

    /// Names the yardstick: a value of the same run, in the same unit.
    pub const fn yardstick(self, what: &'static str) -> Self {
        Self { yardstick: Some(what), ..self }
    }

    /// At least this fraction of the yardstick.
    pub const fn at_least_of_yardstick(self, fraction: f64) -> Self {
        Self { target: Some(Target::AtLeastOfYardstick(fraction)), ..self }
    }

    /// At most this multiple of the yardstick.
    pub const fn at_most_of_yardstick(self, multiple: f64) -> Self {
        Self { target: Some(Target::AtMostOfYardstick(multiple)), ..self }
    }

    /// A sample of this figure.
    ///
    /// # Panics
    /// If the figure has a yardstick; see `beside`.
    pub fn is(&'static self, value: f64) -> Sample {
        assert!(self.yardstick.is_none(), "{} needs its yardstick", self.name);
        Sample { figure: self, value, yardstick: None }
    }

    /// A sample of this figure, with the value of its yardstick.
    pub fn beside(&'static self, value: f64, yardstick: f64) -> Sample {
        Sample { figure: self, value, yardstick: Some(yardstick) }
    }
}

impl Outcome {
    /// `None` if no run gave the figure.
    pub fn of(figure: &Figure, samples: &[Sample]) -> Option<Self> {
        let own = || samples.iter().filter(|sample| sample.figure.name == figure.name);
        let values: Vec<f64> = own().map(|sample| sample.value).collect();
        let value = median(&values)?;
        let yardstick = median(&own().filter_map(|sample| sample.yardstick).collect::<Vec<_>>());
        let met = figure.target.and_then(|target| match target {
            Target::AtMost(limit) => Some(value <= limit),
            Target::AtLeast(limit) => Some(value >= limit),
            Target::AtLeastOfYardstick(fraction) => Some(value >= fraction * yardstick?),
            Target::AtMostOfYardstick(multiple) => Some(value <= multiple * yardstick?),
        });
        Some(Self {
            name: figure.name.to_owned(),
            title: figure.title.to_owned(),
            unit: figure.unit.to_owned(),
            value,
            samples: values,
            target: figure.target,
            met,
            yardstick: figure.yardstick.zip(yardstick).map(|(what, value)| Yardstick { what: what.to_owned(), value }),
        })
    }
}

/// The median. For an even count, the mean of the two values in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    Some((percentile(values, 0.5, f64::floor)? + percentile(values, 0.5, f64::ceil)?) / 2.0)
}

/// The value that this share of all values (0 to 1) does not exceed.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    percentile(values, share, f64::ceil)
}

fn percentile(values: &[f64], share: f64, round: fn(f64) -> f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[round(last as f64 * share) as usize])
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::AtLeastOfYardstick(fraction) => write!(f, "≥ {} % of it", fraction * 100.0),
            Self::AtMostOfYardstick(multiple) => write!(f, "≤ {} % of it", multiple * 100.0),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figure { title, unit, .. } = self.figure;
        write!(f, "{title}: {} {unit}", short(self.value))?;
        match self.figure.yardstick.zip(self.yardstick) {
            Some((what, value)) => write!(f, " ({what}: {})", short(value)),
            None => Ok(()),
        }
    }
}

/// Three significant digits, and all of a whole number.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    static SPEED: Figure = Figure::new("speed", "Speed", "MB/s").yardstick("dd").at_least_of_yardstick(0.8);

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        let hundred: Vec<f64> = (1..=101).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.99), Some(100.0));
    }

    #[test]
    fn a_target_may_hang_on_the_yardstick() {
        let samples = [SPEED.beside(79.0, 100.0), SPEED.beside(81.0, 100.0), SPEED.beside(90.0, 90.0)];
        let outcome = Outcome::of(&SPEED, &samples).unwrap();
        assert_eq!((outcome.value, outcome.met), (81.0, Some(true)));
        assert_eq!(outcome.yardstick.unwrap().value, 100.0);
        assert_eq!(Outcome::of(&SPEED, &samples[..1]).unwrap().met, Some(false));
    }

    #[test]
    fn numbers_are_shown_as_exactly_as_they_are_known() {
        assert_eq!([1234.5, 60.0, 12.345, 1.234].map(short), ["1234", "60", "12.3", "1.23"]);
    }
}
