//! A median with minimum and maximum.

/// The spread of a few values.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    /// NaN where there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self {
            least: at(0),
            median,
            most: at(values.len().wrapping_sub(1)),
        }
    }

    /// The spread of the known values; `None` when none is known.
    pub fn of_known(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let known: Vec<f64> = values.into_iter().flatten().collect();
        (!known.is_empty()).then(|| Self::of(known))
    }

    /// Formats with this many digits after the point; brackets only where they add something.
    pub fn text(self, digits: usize) -> String {
        let Self {
            least,
            median,
            most,
        } = self;
        let [least, median, most] = [least, median, most].map(|it| number(it, digits));
        if least == most {
            return median;
        }
        format!("{median} ({least} to {most})")
    }
}

/// Formats a number with this many digits after the point and separated thousands.
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    if value < 0.0 {
        out.push('-');
    }
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && whole.len() > 3 {
            out.push(',');
        }
        out.push(digit);
    }
    out + fraction
}
