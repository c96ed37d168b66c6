// Says when the windows of Plans are open. Standard input: {"from": seconds since 1970, "minutes": count, "windows": [...]}.
// Standard output: for each window the minutes from which and to which it is open, or null if the library refuses it.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/kubereboot/kured/pkg/timewindow"
)

type window struct {
	Days      []string `json:"days"`
	StartTime string   `json:"startTime"`
	EndTime   string   `json:"endTime"`
	TimeZone  string   `json:"timeZone"`
}

type question struct {
	From    int64    `json:"from"`
	Minutes int      `json:"minutes"`
	Windows []window `json:"windows"`
}

func main() {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	answers := make([][][2]int, len(asked.Windows))
	for i, w := range asked.Windows {
		open, err := timewindow.New(w.Days, w.StartTime, w.EndTime, w.TimeZone)
		if err != nil {
			continue
		}
		answers[i] = periods(open, asked)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func periods(open *timewindow.TimeWindow, asked question) [][2]int {
	found, since := [][2]int{}, -1
	for minute := 0; minute <= asked.Minutes; minute++ {
		is := minute < asked.Minutes && open.Contains(time.Unix(asked.From+int64(minute)*60, 0))
		if is && since < 0 {
			since = minute
		} else if !is && since >= 0 {
			found, since = append(found, [2]int{since, minute}), -1
		}
	}
	return found
}
