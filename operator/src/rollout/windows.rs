//! When machines may be upgraded: the windows of a ManagedOSImage, and how a Plan says them.
//!
//! A window is open as in `timewindow` of kured v1.13.1, which System Upgrade Controller uses: `days` are days on the
//! clock of the time zone, so that a window over midnight is open on a named day both until `endTime` and from
//! `startTime` on; `endTime` is included to the end of its second. Where that library refuses a window, without saying
//! so, or never opens it, this one is completed (absent days, absent times, `24:00`, days in capitals) or refused by name.

#[cfg(test)]
pub mod daily;

use api::Window;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;

const DAY: i32 = 24 * 3600;

/// Names of the days as a Plan takes them, from Sunday on.
const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
/// Days after which every window has opened: a week, and one in which a clock may skip an hour.
const OPENS_WITHIN: i64 = 15;

/// Windows of which one must be open. Without any it is always open.
#[derive(Clone, Debug, Default)]
pub struct Windows(Vec<OpenTime>);

#[derive(Clone, Debug)]
struct OpenTime {
    /// By the number of days since Sunday.
    days: [bool; 7],
    /// Seconds since midnight, both included.
    start: i32,
    end: i32,
    zone: TimeZone,
    /// Its name in the time zone database.
    zone_name: String,
}

/// A window that cannot be understood. The text names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedWindow(String);

impl Windows {
    pub fn of(windows: &[Window]) -> Result<Self, MalformedWindow> {
        let parse = |(number, window)| {
            let field = |field: &str| format!("spec.windows[{number}].{field}");
            OpenTime::of(window, field).map_err(MalformedWindow)
        };
        windows.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether machines are upgraded only at certain times.
    pub fn are_given(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether it is open. `now`: seconds since 1970.
    pub fn are_open(&self, now: i64) -> bool {
        self.0.is_empty() || self.0.iter().any(|window| window.is_open(now))
    }

    /// When the next window opens, in seconds since 1970, to the minute. `None`: one is open.
    pub fn opens_at(&self, now: i64) -> Option<i64> {
        if self.are_open(now) {
            return None;
        }
        let minute = now.div_euclid(60);
        (minute + 1..=minute + OPENS_WITHIN * 24 * 60).map(|minute| minute * 60).find(|&time| self.are_open(time))
    }

    /// The same windows as a Plan takes them: nothing is absent, and no time is 24:00.
    pub fn to_plan(&self) -> Vec<Window> {
        self.0.iter().map(OpenTime::to_plan).collect()
    }

    /// How long it stays open without a pause, in seconds from `now`, not more than `most`. It may be up to a minute
    /// longer than this.
    pub fn open_for(&self, now: i64, most: i64) -> i64 {
        if self.0.is_empty() {
            return most;
        }
        let minutes = (0..=most / 60).take_while(|minute| self.are_open(now + minute * 60));
        minutes.last().unwrap_or(0) * 60
    }
}

impl OpenTime {
    fn of(window: &Window, field: impl Fn(&str) -> String) -> Result<Self, String> {
        let mut days = [false; 7];
        for day in window.days.iter().flatten() {
            let number = weekday(day).ok_or_else(|| {
                format!("{}: {day:?} is no day of the week; write `monday`, `mon` or `mo`", field("days"))
            })?;
            days[number] = true;
        }
        if !days.contains(&true) {
            days = [true; 7];
        }
        let time = |name: &str, text: &Option<String>, absent: i32| {
            let Some(text) = text.as_deref().map(str::trim).filter(|text| !text.is_empty()) else { return Ok(absent) };
            time_of_day(text).ok_or_else(|| format!("{}: {text:?} is no time of day; write `22:00`", field(name)))
        };
        let zone = window.time_zone.as_deref().map(str::trim).filter(|zone| !zone.is_empty()).unwrap_or("UTC");
        let given = zone;
        let zone = TimeZone::get(given).map_err(|_| {
            format!("{}: the time zone database has no {given:?}; write `Europe/Berlin` or `UTC`", field("timeZone"))
        })?;
        // As the database writes it: the upgrade controller does not take `europe/berlin`.
        let zone_name = zone.iana_name().unwrap_or(given).to_owned();
        let start = time("startTime", &window.start_time, 0)?;
        let end = time("endTime", &window.end_time, DAY - 1)?;
        Ok(Self { days, start: start % DAY, end: end.min(DAY - 1), zone, zone_name })
    }

    fn to_plan(&self) -> Window {
        let days = DAYS.iter().zip(self.days).filter(|(_, is_open)| *is_open).map(|(day, _)| (*day).to_owned());
        // The last second of the day stands for its end, which people write as 23:59.
        let end = if self.end == DAY - 1 { self.end - 59 } else { self.end };
        Window {
            days: Some(days.collect()),
            start_time: Some(as_time(self.start)),
            end_time: Some(as_time(end)),
            time_zone: Some(self.zone_name.clone()),
        }
    }

    fn is_open(&self, now: i64) -> bool {
        let Ok(now) = Timestamp::from_second(now) else { return false };
        let local = self.zone.to_datetime(now);
        let day = usize::try_from(local.weekday().to_sunday_zero_offset()).unwrap_or_default();
        let second = i32::from(local.hour()) * 3600 + i32::from(local.minute()) * 60 + i32::from(local.second());
        let (after_start, before_end) = (second >= self.start, second <= self.end);
        self.days[day] && if self.start <= self.end { after_start && before_end } else { after_start || before_end }
    }
}

/// A time of day, of seconds since midnight.
fn as_time(second: i32) -> String {
    let (hour, minute, rest) = (second / 3600, second / 60 % 60, second % 60);
    if rest == 0 { format!("{hour:02}:{minute:02}") } else { format!("{hour:02}:{minute:02}:{rest:02}") }
}

/// The number of days since Sunday.
fn weekday(text: &str) -> Option<usize> {
    let text = text.trim().to_ascii_lowercase();
    let short = matches!(text.len(), 2 | 3);
    DAYS.iter().position(|day| *day == text || (short && day.starts_with(&text)))
}

/// Seconds since midnight, of `22:00` or `22:00:30`. 24:00 is the end of the day.
fn time_of_day(text: &str) -> Option<i32> {
    let mut parts = text.split(':').map(|part| {
        let digits = matches!(part.len(), 1 | 2) && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<i32>().ok()).flatten()
    });
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    let fits = parts.next().is_none() && minute < 60 && second < 60;
    let time = hour * 3600 + minute * 60 + second;
    (fits && time <= DAY).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn windows(windows: Value) -> Result<Windows, MalformedWindow> {
        Windows::of(&serde_json::from_value::<Vec<Window>>(windows).unwrap())
    }
    fn minutes_a_week(given: Value) -> usize {
        let windows = windows(given).unwrap();
        // 2027-01-04 is a Monday.
        (0..7 * 24 * 60).filter(|minute| windows.are_open(1_799_020_800 + minute * 60)).count()
    }
    fn open_at(windows: &Windows, time: &str) -> bool {
        windows.are_open(time.parse::<Timestamp>().unwrap().as_second())
    }

    /// The counts of kured's library, where it opens at all: `endTime` is included, so that a window has one minute more.
    #[test]
    fn windows_are_open_as_the_upgrade_controller_opens_them() {
        let week = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
        assert_eq!(minutes_a_week(json!([{"days": week, "startTime": "01:00", "endTime": "03:59"}])), 1260);
        assert_eq!(minutes_a_week(json!([{"days": week, "startTime": "22:00", "endTime": "03:59"}])), 2520);
        let weekend = json!([{"days": ["sa", "sun"], "startTime": "22:00", "endTime": "03:59"}]);
        assert_eq!(minutes_a_week(weekend.clone()), 720);
        let weekend = windows(weekend).unwrap();
        for (time, open) in [
            ("2027-01-08T23:00:00Z", false),
            ("2027-01-09T02:00:00Z", true),
            ("2027-01-09T12:00:00Z", false),
            ("2027-01-09T23:00:00Z", true),
            ("2027-01-10T02:00:00Z", true),
            ("2027-01-10T23:59:59Z", true),
            ("2027-01-11T00:00:00Z", false),
        ] {
            assert_eq!(open_at(&weekend, time), open, "{time}");
        }
    }

    #[test]
    fn what_is_absent_is_completed() {
        let all = 7 * 24 * 60;
        assert_eq!(minutes_a_week(json!([])), all);
        assert_eq!(minutes_a_week(json!([{}])), all);
        assert_eq!(minutes_a_week(json!([{"startTime": "12:00"}])), all / 2);
        assert_eq!(minutes_a_week(json!([{"startTime": "12:00", "endTime": "24:00"}])), all / 2);
        assert_eq!(minutes_a_week(json!([{"endTime": "11:59:59", "days": ["Sunday"]}])), 12 * 60);
        let two = json!([{"days": ["mo"], "endTime": "00:59"}, {"days": ["tu"], "endTime": "00:59"}]);
        assert_eq!(minutes_a_week(two), 120);
    }

    #[test]
    fn a_plan_gets_complete_windows() {
        let to_plan = |window: Value| windows(json!([window])).unwrap().to_plan().remove(0);
        let week = DAYS.map(str::to_owned).to_vec();
        let window = |days: Vec<String>, start: &str, end: &str, zone: &str| Window {
            days: Some(days),
            start_time: Some(start.into()),
            end_time: Some(end.into()),
            time_zone: Some(zone.into()),
        };
        assert_eq!(to_plan(json!({"days": ["Sunday"]})), window(vec!["sunday".into()], "00:00", "23:59", "UTC"));
        let berlin = json!({"startTime": "1:00", "endTime": "24:00", "timeZone": "Europe/Berlin"});
        assert_eq!(to_plan(berlin), window(week.clone(), "01:00", "23:59", "Europe/Berlin"));
        assert_eq!(
            to_plan(json!({"startTime": "24:00", "endTime": "03:00:30"})),
            window(week, "00:00", "03:00:30", "UTC")
        );
    }

    /// In a week in which Berlin's clocks go forward. A test of `tests/scenarios/oracles.rs` has kured's library say when the
    /// Plan's windows are open.
    #[test]
    fn windows_and_what_a_plan_gets_are_open_in_the_same_minutes() {
        let cases: Value = serde_json::from_str(include_str!("../../testdata/windows.json")).unwrap();
        let (from, minutes) = (cases["from"].as_i64().unwrap(), cases["minutes"].as_i64().unwrap());
        for case in cases["windows"].as_array().unwrap() {
            let windows = windows(json!([case["given"]])).unwrap();
            assert_eq!(json!(windows.to_plan()[0]), case["plan"]);
            let periods: Vec<[i64; 2]> = serde_json::from_value(case["open"].clone()).unwrap();
            for minute in 0..minutes {
                let open = periods.iter().any(|[from, to]| (*from..*to).contains(&minute));
                assert_eq!(windows.are_open(from + minute * 60), open, "minute {minute} of {}", case["given"]);
            }
        }
    }

    #[test]
    fn a_closed_window_says_when_it_opens() {
        let windows = windows(json!([{"days": ["sa"], "startTime": "22:00", "endTime": "23:00"}])).unwrap();
        let at = |time: &str| time.parse::<Timestamp>().unwrap().as_second();
        assert_eq!(windows.opens_at(at("2027-01-10T00:00:30Z")), Some(at("2027-01-16T22:00:00Z")));
        assert_eq!(windows.opens_at(at("2027-01-09T22:30:00Z")), None);
        assert_eq!(Windows::default().opens_at(0), None);
    }

    #[test]
    fn time_zones_have_their_summer_time() {
        let berlin = windows(json!([{"startTime": "22:00", "endTime": "22:59", "timeZone": "Europe/Berlin"}])).unwrap();
        assert!(open_at(&berlin, "2027-01-09T21:30:00Z") && !open_at(&berlin, "2027-07-09T21:30:00Z"));
        assert!(open_at(&berlin, "2027-07-09T20:30:00Z"));
    }

    #[test]
    fn the_time_that_is_left_ends_with_the_window() {
        let windows = windows(json!([{"startTime": "22:00", "endTime": "22:10"}])).unwrap();
        let at = |time: &str| time.parse::<Timestamp>().unwrap().as_second();
        assert_eq!(windows.open_for(at("2027-01-09T22:05:30Z"), 1200), 240);
        assert_eq!(windows.open_for(at("2027-01-09T22:05:30Z"), 120), 120);
        assert_eq!(windows.open_for(at("2027-01-09T23:00:00Z"), 1200), 0);
        assert_eq!(Windows::default().open_for(0, 1200), 1200);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (window, field) in [
            (json!({"days": ["someday"]}), "spec.windows[0].days"),
            (json!({"days": ["s"]}), "spec.windows[0].days"),
            (json!({"startTime": "25:00"}), "spec.windows[0].startTime"),
            (json!({"endTime": "4pm"}), "spec.windows[0].endTime"),
            (json!({"endTime": "24:01"}), "spec.windows[0].endTime"),
            (json!({"timeZone": "Mars/Base"}), "spec.windows[0].timeZone"),
        ] {
            let error = windows(json!([window])).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }
}
