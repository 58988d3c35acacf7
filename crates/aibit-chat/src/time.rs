//! A point in time on a local clock, and Python's `strftime` of it.

/// A date and a time of day as a clock on the wall shows them, without a time zone.
///
/// Templates print it with `strftime_now`. It is handed in: rendering itself reads no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Gregorian, 1 to 9999.
    pub year: i32,
    /// From 1.
    pub month: u32,
    /// Of the month, from 1.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
    /// 0 to 999,999.
    pub microsecond: u32,
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
#[rustfmt::skip] // a list of words
const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
];
/// Widest field of a format.
const MAX_WIDTH: usize = 1000;
/// Longest text, but for the last field.
const MAX_LENGTH: usize = 1 << 16;

impl LocalTime {
    /// The first second of 1970.
    pub const EPOCH: Self =
        Self { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0, microsecond: 0 };

    /// Days from the first of January, from 0.
    fn day_of_year(&self) -> u32 {
        const BEFORE: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        BEFORE[(self.month as usize - 1).min(11)] + self.day - 1
            + u32::from(self.month > 2 && is_leap(self.year))
    }

    /// From 0 for Sunday.
    fn day_of_week(&self) -> u32 {
        let before = i64::from(self.year) - 1;
        let days = before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
        // The first of January of the year 1 was a Monday.
        (days + i64::from(self.day_of_year()) + 1).rem_euclid(7) as u32
    }

    /// ISO 8601's year and week.
    fn iso_week(&self) -> (i32, u32) {
        let from_monday = (self.day_of_week() + 6) % 7;
        let week = (self.day_of_year() as i32 - from_monday as i32 + 10).div_euclid(7);
        if week < 1 {
            (self.year - 1, weeks_of(self.year - 1))
        } else if week as u32 > weeks_of(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, week as u32)
        }
    }

    /// What Python's `strftime` makes of `format` in the C locale, with the flags and widths of glibc.
    ///
    /// # Errors
    /// A directive that it does not have, by name.
    pub fn strftime(&self, format: &str) -> Result<String, String> {
        self.formatted(format, 0)
    }

    fn formatted(&self, format: &str, level: u32) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let (mut padding, mut upper, mut swap) = (None, false, false);
            let mut width = 0;
            let directive = loop {
                match chars.next() {
                    Some(flag @ ('-' | '_')) => padding = Some(flag),
                    Some('0') if width == 0 => padding = Some('0'),
                    Some('^') => upper = true,
                    Some('#') => swap = true,
                    Some(digit @ '0'..='9') if width <= MAX_WIDTH => {
                        width = 10 * width + (digit as usize - '0' as usize);
                    }
                    Some(directive) => break directive,
                    None => return Err("`strftime_now`: the format ends within a directive".into()),
                }
            };
            if width > MAX_WIDTH || level > 1 {
                return Err(format!("`strftime_now`: fields have up to {MAX_WIDTH} characters"));
            }
            if out.len() > MAX_LENGTH {
                return Err(format!("`strftime_now` gives up to {MAX_LENGTH} bytes"));
            }
            let is_plain = padding.is_none() && !upper && !swap && width == 0;
            let number = |value: u32, digits: usize, fill: char| {
                let width = if width > 0 { width } else { digits };
                match padding {
                    Some('-') => value.to_string(),
                    Some('_') => format!("{value:>width$}"),
                    Some(_) => format!("{value:0>width$}"),
                    None if fill == ' ' => format!("{value:>width$}"),
                    None => format!("{value:0>width$}"),
                }
            };
            let word = |text: String, swapped: fn(&str) -> String| {
                let text = if upper {
                    text.to_uppercase()
                } else if swap {
                    swapped(&text)
                } else {
                    text
                };
                let fill = if padding == Some('0') { '0' } else { ' ' };
                let missing = width.saturating_sub(text.len());
                let fills: String = std::iter::repeat_n(fill, missing).collect();
                fills + &text
            };
            let words = |text: &str| word(text.to_owned(), str::to_uppercase);
            let (day, month) = (self.day_of_week(), (self.month as usize).clamp(1, 12) - 1);
            let hour12 = if self.hour.is_multiple_of(12) { 12 } else { self.hour % 12 };
            let half = if self.hour < 12 { "AM" } else { "PM" };
            let year = self.year.unsigned_abs();
            let (iso_year, iso_week) = self.iso_week();
            let composed = |format: &str| self.formatted(format, level + 1).map(|text| words(&text));
            out += &match directive {
                'a' => words(&DAYS[day as usize][..3]),
                'A' => words(DAYS[day as usize]),
                'b' | 'h' => words(&MONTHS[month][..3]),
                'B' => words(MONTHS[month]),
                'c' => composed("%a %b %e %H:%M:%S %Y")?,
                'C' => number(year / 100, 2, '0'),
                'd' => number(self.day, 2, '0'),
                'D' | 'x' => composed("%m/%d/%y")?,
                'e' => number(self.day, 2, ' '),
                'F' if is_plain => composed("%Y-%m-%d")?,
                // Python replaces these itself, before the C library sees them.
                'f' if is_plain => format!("{:06}", self.microsecond),
                'z' | 'Z' if is_plain => String::new(),
                'g' => number(iso_year.unsigned_abs() % 100, 2, '0'),
                'G' => number(iso_year.unsigned_abs(), 1, '0'),
                'H' => number(self.hour, 2, '0'),
                'I' => number(hour12, 2, '0'),
                'j' => number(self.day_of_year() + 1, 3, '0'),
                'k' => number(self.hour, 2, ' '),
                'l' => number(hour12, 2, ' '),
                'm' => number(self.month, 2, '0'),
                'M' => number(self.minute, 2, '0'),
                'n' => words("\n"),
                'p' => word(half.to_owned(), str::to_lowercase),
                'P' => word(half.to_lowercase(), str::to_lowercase),
                'r' => composed("%I:%M:%S %p")?,
                'R' => composed("%H:%M")?,
                'S' => number(self.second, 2, '0'),
                't' => words("\t"),
                'T' | 'X' => composed("%H:%M:%S")?,
                'u' => number(if day == 0 { 7 } else { day }, 1, '0'),
                'U' => number((self.day_of_year() + 7 - day) / 7, 2, '0'),
                'V' => number(iso_week, 2, '0'),
                'w' => number(day, 1, '0'),
                'W' => number((self.day_of_year() + 7 - (day + 6) % 7) / 7, 2, '0'),
                'y' => number(year % 100, 2, '0'),
                'Y' => number(year, 1, '0'),
                '%' => words("%"),
                _ => {
                    return Err(format!(
                        "`strftime_now`: the directive `%{directive}` is not supported here"
                    ));
                }
            };
        }
        Ok(out)
    }
}

fn is_leap(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Weeks of a year of ISO 8601: 53 where it begins with a Thursday, or with a Wednesday and is a leap year.
fn weeks_of(year: i32) -> u32 {
    let first = LocalTime { year, ..LocalTime::EPOCH }.day_of_week();
    if first == 4 || (first == 3 && is_leap(year)) { 53 } else { 52 }
}
