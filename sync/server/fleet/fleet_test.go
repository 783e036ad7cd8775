package fleet

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func moment(text string) time.Time {
	t, err := time.Parse("Mon 15:04", text)
	if err != nil {
		panic(err)
	}
	day := map[string]int{"Mon": 2, "Tue": 3, "Wed": 4, "Thu": 5, "Fri": 6, "Sat": 7, "Sun": 8}[text[:3]]
	return time.Date(2026, 3, day, t.Hour(), t.Minute(), 0, 0, time.UTC) // 2 March 2026 is a Monday
}

func TestWindow(t *testing.T) {
	day := &Window{From: "08:00", To: "16:00", Days: []string{"mon", "tue"}}
	night := &Window{From: "22:00", To: "04:00", Days: []string{"fri"}}
	for _, c := range []struct {
		w    *Window
		at   string
		want bool
	}{
		{nil, "Sun 03:00", true}, {day, "Mon 07:59", false}, {day, "Mon 08:00", true}, {day, "Mon 15:59", true}, {day, "Mon 16:00", false},
		{day, "Wed 12:00", false},
		{night, "Fri 21:59", false}, {night, "Fri 22:00", true}, {night, "Sat 03:59", true}, {night, "Sat 04:00", false},
		{night, "Fri 03:00", false}, {night, "Sat 23:00", false},
	} {
		if got := c.w.Open(moment(c.at)); got != c.want {
			t.Errorf("%+v at %s: %v", c.w, c.at, got)
		}
	}
	if d := day.openFor(moment("Mon 15:00"), moment("Tue 09:00")); d != 2*time.Hour {
		t.Errorf("open for %s, want 2h", d)
	}
}

// A stage ends when its time is over in an open window and enough devices have reported their state.
func TestNext(t *testing.T) {
	r := &Rollout{State: Running, StageSince: moment("Mon 15:30"),
		Plan: Plan{Stages: []Stage{{10, 60}, {100, 60}}, Window: &Window{From: "08:00", To: "16:00"}}}
	enough := Tally{Sent: 9, Good: 5}
	for _, c := range []struct {
		at    string
		t     Tally
		size  int
		stage int
		done  bool
	}{
		{"Mon 15:50", enough, 100, 0, false}, {"Mon 17:00", enough, 100, 0, false}, {"Tue 08:10", enough, 100, 0, false},
		{"Tue 08:40", enough, 100, 1, false},
		{"Tue 08:40", Tally{Sent: 100, Good: 4}, 100, 0, false}, {"Tue 08:40", Tally{Good: 3}, 3, 1, false},
		{"Tue 08:40", Tally{}, 0, 1, false},
	} {
		if stage, done := r.Next(moment(c.at), c.t, c.size); stage != c.stage || done != c.done {
			t.Errorf("%s %+v: stage %d, done %v", c.at, c.t, stage, done)
		}
	}
	r.Stage = 1
	if _, done := r.Next(moment("Wed 12:00"), enough, 100); !done {
		t.Error("the last stage does not end")
	}
	r.State = Paused
	if _, done := r.Next(moment("Wed 12:00"), enough, 100); done {
		t.Error("a paused rollout ends")
	}
}

func TestStop(t *testing.T) {
	n := func(i int) *int { return &i }
	for _, c := range []struct {
		p     Plan
		t     Tally
		stage int
		want  bool
	}{
		{Plan{}, Tally{Good: 100}, 100, false}, {Plan{}, Tally{Good: 90, Reverted: 10}, 100, false},
		{Plan{}, Tally{Good: 89, Reverted: 11}, 100, true},
		{Plan{}, Tally{Reverted: 4}, 100, false}, {Plan{}, Tally{Reverted: 5}, 100, true}, {Plan{}, Tally{Noncompliant: 2}, 2, true},
		{Plan{StopAbove: n(0), MinDevices: n(1)}, Tally{Noncompliant: 1}, 100, true},
		{Plan{StopAbove: n(50)}, Tally{Good: 5, Noncompliant: 5}, 100, false},
	} {
		if got := c.p.Stop(c.t, c.stage); got != c.want {
			t.Errorf("%+v of %d: %v", c.t, c.stage, got)
		}
	}
}

// A share has the requested size, grows without losing devices, and differs from rollout to rollout.
func TestShare(t *testing.T) {
	plan := Plan{Stages: []Stage{{Percent: 10}, {Percent: 50}, {Percent: 100}}}
	one, two := &Rollout{ID: "one", Plan: plan}, &Rollout{ID: "two", Plan: plan}
	const fleet = 20_000
	in := [3]int{}
	both := 0
	for i := range fleet {
		d := &Device{ID: fmt.Sprintf("device-%06d", i)}
		before := false
		for one.Stage = range 3 {
			is := one.InStage(d)
			if before && !is {
				t.Fatalf("%s leaves at stage %d", d.ID, one.Stage)
			}
			before = is
			if is {
				in[one.Stage]++
			}
		}
		one.Stage, two.Stage = 0, 0
		if one.InStage(d) && two.InStage(d) {
			both++
		}
	}
	if in[0] < fleet*8/100 || in[0] > fleet*12/100 || in[1] < fleet*47/100 || in[1] > fleet*53/100 || in[2] != fleet {
		t.Errorf("shares of %d: %v", fleet, in)
	}
	if both > fleet*2/100 {
		t.Errorf("%d are first in both: always the same are tried on", both)
	}
}

// The mode of an assignment replaces the policy's and caps its sections.
func TestRender(t *testing.T) {
	p := &Policy{ID: "p", Version: 3, Active: true, Compliance: `"warn"`, Sections: `{"dlp":"monitor","usb":"enforce"}`,
		Data: json.RawMessage(`{"usb":{"allowed":true}}`)}
	for mode, want := range map[string]string{
		"":        `"compliance":"warn","section_compliance":{"dlp":"monitor","usb":"enforce"}`,
		"enforce": `"compliance":"enforce","section_compliance":{"dlp":"monitor","usb":"enforce"}`,
		"monitor": `"compliance":"monitor","section_compliance":{"dlp":"monitor","usb":"monitor"}`,
	} {
		r, err := Render(p, mode)
		if err != nil || !strings.Contains(string(r.Document), want) || r.Digest == "" {
			t.Errorf("%s: %v %s", mode, err, r.Document)
		}
	}
	back, err := FromDocument(p.Document())
	if err != nil || back.Version != 3 || back.Sections != p.Sections || string(back.Data) != string(p.Data) {
		t.Errorf("%v %+v", err, back)
	}
}
