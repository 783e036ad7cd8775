package fleet

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"
)

// The states of a rollout.
const (
	Running = "running"
	Paused  = "paused"
	Stopped = "stopped" // by hand, or because too much went wrong: the devices go back
	Done    = "done"
)

// Stage is one step of a rollout.
type Stage struct {
	Percent     int `json:"percent" minimum:"1" maximum:"100" doc:"share of the policy's devices that get the new version"`
	WaitMinutes int `json:"wait_minutes,omitempty" minimum:"0" maximum:"43200" doc:"shortest duration of the stage, counting only time in the window"`
}

// Window is the time of day in which devices are moved.
type Window struct {
	From string   `json:"from" pattern:"^([01][0-9]|2[0-3]):[0-5][0-9]$" doc:"hours and minutes, UTC"`
	To   string   `json:"to" pattern:"^([01][0-9]|2[0-3]):[0-5][0-9]$" doc:"hours and minutes, UTC; if earlier than from, the window spans midnight"`
	Days []string `json:"days,omitempty" doc:"mon to sun; default: all" enum:"mon,tue,wed,thu,fri,sat,sun"`
}

// Open reports whether a moment lies in the window.
func (w *Window) Open(now time.Time) bool {
	if w == nil {
		return true
	}
	now = now.UTC()
	at, day := now.Format("15:04"), now
	if w.From <= w.To && (at < w.From || at >= w.To) {
		return false
	}
	if w.From > w.To {
		if at < w.From && at >= w.To {
			return false
		}
		if at < w.To {
			day = day.AddDate(0, 0, -1) // the window began yesterday
		}
	}
	return len(w.Days) == 0 || slices.Contains(w.Days, strings.ToLower(day.Weekday().String()[:3]))
}

// openFor is how long the window was open between two moments, to ten minutes if there is a window.
func (w *Window) openFor(from, to time.Time) (d time.Duration) {
	if w == nil {
		return to.Sub(from)
	}
	const step = 10 * time.Minute
	from = later(from, to.AddDate(0, 0, -60)) // a bound, longer than any wait
	for ; from.Before(to); from = from.Add(step) {
		if w.Open(from) {
			d += min(step, to.Sub(from))
		}
	}
	return d
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Plan is how a rollout proceeds, as an administrator writes it.
type Plan struct {
	Stages     []Stage  `json:"stages" minItems:"1" maxItems:"20"`
	Groups     []Target `json:"groups,omitempty" maxItems:"50" doc:"groups that get the new version from the first stage on"`
	Window     *Window  `json:"window,omitempty" doc:"when devices are moved; default: always"`
	StopAbove  *int     `json:"stop_above_percent,omitempty" minimum:"0" maximum:"100" doc:"stop if more than this share of the moved devices revert the version or become noncompliant; default 10"`
	MinDevices *int     `json:"min_devices,omitempty" minimum:"1" maximum:"100000" doc:"reports needed before stop_above_percent is checked; default 5, or all devices of a smaller stage"`
}

// need is how many reports count as evidence.
func (p *Plan) need() int {
	if p.MinDevices != nil {
		return *p.MinDevices
	}
	return 5
}

// Check checks a plan beyond its shape. It returns field and message.
func (p *Plan) Check() (field, message string) {
	last := 0
	for i, s := range p.Stages {
		if s.Percent <= last {
			return fmt.Sprintf("stages[%d].percent", i), "must grow from stage to stage"
		}
		last = s.Percent
	}
	if last != 100 {
		return "stages", "must end with 100 percent"
	}
	if p.Window != nil && p.Window.From == p.Window.To {
		return "window.to", "must differ from window.from"
	}
	return "", ""
}

// Rollout moves a policy's devices from one version to the next, a share at a time.
type Rollout struct {
	ID, Policy string
	From, To   int
	Plan       Plan
	State      string
	Stage      int
	StageSince time.Time
	Reason     string
	CreatedAt  time.Time
	CreatedBy  string
	EndedAt    time.Time
}

// Includes reports whether a device gets the new version now. A device that has it keeps it.
func (r *Rollout) Includes(d *Device, now time.Time) bool {
	if d.Current.Policy == r.Policy && d.Current.Version == r.To {
		return true
	}
	if r.State != Running || !r.Plan.Window.Open(now) {
		return false
	}
	return r.InStage(d)
}

// InStage reports whether a device is one of those that the stage is for.
func (r *Rollout) InStage(d *Device) bool {
	for _, g := range r.Plan.Groups {
		if g.Matches(d) {
			return true
		}
	}
	return share(r.ID+"/"+d.ID) < r.Plan.Stages[r.Stage].Percent*100
}

// share is a device's place from 0 to 9999: the same on every node, different for each rollout.
func share(s string) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	// FNV's high bits mix better than its low ones for texts that differ at the end.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return int(x % 10000)
}

// Next is the stage that is due, and whether the rollout is done. Time alone never ends a stage: as many devices as the
// plan wants, or as the stage has, must have reported their state.
func (r *Rollout) Next(now time.Time, t Tally, stageSize int) (stage int, done bool) {
	stage = r.Stage
	if r.State != Running || !r.Plan.Window.Open(now) {
		return stage, false
	}
	if t.Good+t.Reverted+t.Noncompliant < min(r.Plan.need(), stageSize) {
		return stage, false
	}
	if r.Plan.Window.openFor(r.StageSince, now) < time.Duration(r.Plan.Stages[stage].WaitMinutes)*time.Minute {
		return stage, false
	}
	if stage == len(r.Plan.Stages)-1 {
		return stage, true
	}
	return stage + 1, false
}

// Tally counts what became of the devices that a rollout moved.
type Tally struct {
	Sent         int `json:"sent" doc:"devices that were sent the new version"`
	Good         int `json:"good" doc:"devices that have it, and are no worse than before"`
	Reverted     int `json:"reverted" doc:"devices that refused or reverted it"`
	Noncompliant int `json:"noncompliant" doc:"compliant before and noncompliant under the new version"`
}

// Stop reports whether too much went wrong. stage is how many devices the stage is for: a small one does not wait for
// more reports than it has devices.
func (p *Plan) Stop(t Tally, stage int) bool {
	above := 10
	if p.StopAbove != nil {
		above = *p.StopAbove
	}
	bad, reported := t.Reverted+t.Noncompliant, t.Good+t.Reverted+t.Noncompliant
	return bad > 0 && reported >= min(p.need(), max(stage, 1)) && bad*100 > above*reported
}
