//! The local time that chat templates print with `strftime_now`.

use aibit_chat::LocalTime;
use jiff::ZonedDateTime;

/// The date and time of day now, in the time zone of the system.
pub(crate) fn now() -> LocalTime {
    let now = ZonedDateTime::now();
    let part = |value: i8| u32::try_from(value).unwrap_or_default();
    LocalTime {
        year: now.year().into(),
        month: part(now.month()),
        day: part(now.day()),
        hour: part(now.hour()),
        minute: part(now.minute()),
        second: part(now.second()),
        microsecond: u32::try_from(now.subsec_nanosecond() / 1000).unwrap_or_default(),
    }
}
