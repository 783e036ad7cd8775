package roster

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/warderd/warder/sync/server/fleet"
)

func row(n int64) Row {
	return Row{N: n, ID: fmt.Sprintf("device-%05d", n), Name: fmt.Sprintf("Laptop %d", n*7919%1000), OS: []string{"linux", "windows"}[n%2],
		Ownership: "COPE", User: fmt.Sprint("user", n%50),
		Tags: []string{"", ",eng,", ",eng,en,"}[n%3], State: []string{"enrolled", "enrolled", "enrolled", "cloned", "retired"}[n%5],
		Enrolled: n,
		At:       1000 + n%400, Fresh: 2000 + n%400, Standing: Standing{Current: "policy-1", Hash: fmt.Sprint("h", n%4),
			Rollup: []string{"compliant", "noncompliant", "unverified", "unknown", ""}[n%5]}}
}

func full(n int64) *Roster {
	r := New()
	var list []Row
	for i := range n {
		list = append(list, row(i+1))
	}
	r.Put(list)
	return r
}

var clock = Clock{Now: 2100, Most: 3000, Online: 1200}

// A filter matches what a plain loop over the rows matches.
func TestFilters(t *testing.T) {
	const n = 3000
	r := full(n)
	stands := func(x Row) string {
		if x.Rollup != "" && (x.Fresh < clock.Now || x.Fresh > clock.Most) {
			return "unknown"
		}
		return x.Rollup
	}
	for name, c := range map[string]struct {
		f  Filter
		is func(Row) bool
	}{
		"all":          {Filter{}, func(Row) bool { return true }},
		"noncompliant": {Filter{Rollup: "noncompliant"}, func(x Row) bool { return stands(x) == "noncompliant" }},
		"unknown":      {Filter{Rollup: "unknown"}, func(x Row) bool { return stands(x) == "unknown" }},
		"online":       {Filter{Status: "online"}, func(x Row) bool { return x.At > clock.Online }},
		"offline":      {Filter{Status: "offline"}, func(x Row) bool { return x.At <= clock.Online }},
		"tag":          {Filter{Target: fleet.Target{Tag: "en"}}, func(x Row) bool { return strings.Contains(x.Tags, ",en,") }},
		"a group": {Filter{Target: fleet.Target{Platform: "linux", Ownership: "ANY", User: "user4"}},
			func(x Row) bool { return x.OS == "linux" && x.User == "user4" }},
		"begins": {Filter{Name: "lapTOP 9"}, func(x Row) bool { return strings.HasPrefix(x.Name, "Laptop 9") }},
		"a text": {Filter{Text: "TOP 77"}, func(x Row) bool { return strings.Contains(x.Name, "top 77") }},
		"an id":  {Filter{Text: "DEVICE-0042"}, func(x Row) bool { return strings.Contains(x.ID, "device-0042") }},
		"state":  {Filter{State: "cloned"}, func(x Row) bool { return x.State == "cloned" }},
		"nobody": {Filter{Policy: "policy-1"}, func(Row) bool { return false }},
	} {
		c.f.Clock = clock
		var want []int64
		for i := range int64(n) {
			if x := row(i + 1); (c.f.State != "" || x.State != "retired") && c.is(x) {
				want = append(want, x.N)
			}
		}
		if got := r.Numbers(c.f, 0, n); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d, want %d", name, len(got), len(want))
		}
		for _, p := range []Page{{Size: 20}, {Sort: ByName, Size: 20}, {Sort: ByName, Descending: true, Size: 7, Skip: 14},
			{Sort: ByLastSync, Size: 5}, {Sort: ByEnrolled, Descending: true, Size: 5}, {Descending: true, Size: 3}} {
			sorted := slices.Clone(want)
			slices.SortStableFunc(sorted, func(a, b int64) int {
				x, y := row(a), row(b)
				k := 0
				switch p.Sort {
				case ByName:
					k = cmp.Or(cmp.Compare(strings.ToLower(x.Name), strings.ToLower(y.Name)), cmp.Compare(x.Name, y.Name))
				case ByLastSync:
					k = cmp.Compare(x.At, y.At)
				case ByEnrolled:
					k = cmp.Compare(x.Enrolled, y.Enrolled)
				}
				if k = cmp.Or(k, cmp.Compare(a, b)); p.Descending {
					return -k
				}
				return k
			})
			marks, total := r.List(c.f, p)
			var got []int64
			for _, m := range marks {
				got = append(got, m.N)
			}
			from := min(p.Skip, len(sorted))
			if page := sorted[from:min(from+p.Size, len(sorted))]; total != len(want) || !slices.Equal(got, page) {
				t.Errorf("%s, %+v: %v of %d, want %v of %d", name, p, got, total, page, len(want))
			}
		}
	}
}

// A list that is read on from a mark contains every device once, whatever is renamed, added or retired meanwhile.
func TestMarks(t *testing.T) {
	for _, p := range []Page{{Size: 13}, {Sort: ByName, Size: 13}, {Sort: ByName, Descending: true, Size: 13}} {
		const n = 500
		r := full(n)
		seen := map[int64]int{}
		next := int64(n + 1)
		for {
			marks, _ := r.List(Filter{}, p)
			if len(marks) == 0 {
				break
			}
			for _, m := range marks {
				seen[m.N]++
			}
			last := marks[len(marks)-1]
			p.After = &last
			more := row(next)
			more.State = "enrolled"
			x := row(next % n)
			x.State = "retired"
			if next < n+30 {
				r.Put([]Row{more, x})
			}
			if next++; next > 2*n {
				t.Fatalf("no end: %+v, last %+v, %d seen, %d marks", p, last, len(seen), len(marks))
			}
		}
		for k, v := range seen {
			if v != 1 {
				t.Errorf("%+v: device %d came %d times", p, k, v)
			}
		}
		for i := range int64(n) {
			if x := row(i + 1); x.State != "retired" && seen[x.N] == 0 && i+1 >= next%n {
				t.Errorf("%+v: device %d did not come", p, x.N)
			}
		}
	}
}

// Sums stay right under concurrent changes, also when everybody gets another policy.
func TestCounts(t *testing.T) {
	r := full(2000)
	states := []*fleet.State{{Default: "a", Policies: map[string]*fleet.Policy{"a": {ID: "a", Active: true}}},
		{Default: "b", Policies: map[string]*fleet.Policy{"b": {ID: "b", Active: true}, "c": {ID: "c", Active: true}},
			Assignments: []fleet.Assignment{{ID: "1", Policy: "c", Target: fleet.Target{Tag: "en"}}}}}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			for range 3000 {
				n := rnd.Int64N(2200) + 1
				x := row(n)
				x.State = []string{"enrolled", "retired"}[rnd.IntN(2)]
				r.Put([]Row{x})
				r.Stand(n, Standing{Current: "p", Hash: "h", Rollup: "compliant"}, true)
				r.Heard(n, 1, 2)
				if rnd.IntN(300) == 0 {
					r.Assign(states[rnd.IntN(2)])
				}
				if rnd.IntN(300) == 0 {
					r.Standings("", clock)
					r.List(Filter{Text: "9"}, Page{Sort: ByName, Size: 5})
				}
			}
		})
	}
	all.Wait()
	for _, st := range states {
		r.Assign(st)
		want, total := map[string]int{}, 0
		r.each(false, func(e *entry) bool {
			if e.state != retired {
				d := e.device()
				id, _ := st.Assigned(&d)
				want[id]++
				total++
			}
			return true
		})
		if got, n := r.Counts(); !reflect.DeepEqual(got, want) || n != total {
			t.Errorf("%v %d, want %v %d", got, n, want, total)
		}
	}
}

// A device's latest report and time count; a report without findings keeps the earlier ones.
func TestStanding(t *testing.T) {
	r := New()
	if r.Stand(1, Standing{}, true) || r.Heard(1, 1, 1) {
		t.Error("a device that is not here")
	}
	r.Put([]Row{{N: 1, ID: "d", State: "enrolled", At: 5, Fresh: 2500, Standing: Standing{Current: "p", Hash: "h", Rollup: "compliant"}}})
	r.Stand(1, Standing{Current: "q", Version: 2}, false)
	if s := r.Standings("q", clock); len(s) != 1 || s[0] != (Sum{"q", "h", "compliant", false, 1}) {
		t.Errorf("%+v", s)
	}
	r.Heard(1, 4, 100) // the clock was set back: the latest report counts
	if s := r.Standings("", clock); len(s) != 1 || !s[0].Old {
		t.Errorf("%+v", s)
	}
	r.Merge(1, 3, 2500) // and an earlier one from elsewhere does not
	if s := r.Standings("", clock); !s[0].Old {
		t.Errorf("%+v", s)
	}
	r.Heard(1, clock.Now+5, clock.Most+5) // a moment after the reader has read the clock
	if s := r.Standings("", clock); s[0].Old {
		t.Errorf("%+v", s)
	}
	r.Heard(1, 4, 100)
	r.Connected(1, true)
	if s := r.Standings("", clock); s[0].Old {
		t.Errorf("%+v", s)
	}
	r.Stand(1, Standing{Current: "q", Ended: true}, false)
	if n := r.Count(Filter{Rollup: "unknown", Clock: clock}, nil); n != 1 {
		t.Error("an agent that has ended is counted by what it said before")
	}
}

// A row that was read before a report arrived undoes neither the report, nor a socket that connected meanwhile, nor the
// time at which it was heard of; a time in the future is corrected.
func TestLateRow(t *testing.T) {
	now := int64(1_000_000_000)
	r := New()
	r.Now = func() int64 { return now }
	x := Row{N: 7, ID: "d", State: "enrolled", At: now - 5000, Fresh: now + 1000,
		Standing: Standing{Current: "p", Hash: "old", Rollup: "compliant", Counter: 4}}
	r.Put([]Row{x})
	r.Stand(7, Standing{Current: "p", Version: 2, Hash: "new", Rollup: "noncompliant", Counter: 5}, true)
	r.Heard(7, now, now+2000)
	r.Connected(7, true)
	x.Name = "renamed"
	r.Put([]Row{x})
	clock := Clock{Now: now + 1500, Most: now + 5000, Online: now - 1}
	if s := r.Standings("", clock); len(s) != 1 || s[0] != (Sum{"p", "new", "noncompliant", false, 1}) {
		t.Errorf("%+v", s)
	}
	if n := r.Count(Filter{Status: "online", Text: "RENAMED", Clock: clock}, nil); n != 1 {
		t.Error("the name did not come, or the socket went")
	}
	r.Stand(7, Standing{Current: "p", Hash: "older", Rollup: "compliant", Counter: 3}, true) // another node's, read late
	if s := r.Standings("", clock); s[0].Hash != "new" {
		t.Errorf("%+v", s)
	}
	r.Connected(7, false)
	r.Heard(7, now+3_600_000, now+7_200_000) // by a clock that is set back now
	r.Merge(7, now+10, now+2000)
	if n := r.Count(Filter{Status: "online", Clock: clock}, nil); n != 1 {
		t.Error("another node's word is not taken for an hour")
	}
	if s := r.Standings("", clock); s[0].Old {
		t.Errorf("%+v", s)
	}
}

// Sums equal a count of each device, whatever changed since they were made, including the time.
func TestSums(t *testing.T) {
	const n = 3 * chunkSize
	now := int64(1_000_000_000)
	r := New()
	r.Now = func() int64 { return now }
	rnd := rand.New(rand.NewPCG(4, 2))
	words := []string{"", "compliant", "noncompliant", "unverified", "unknown"}
	some := func(n int64) Row {
		x := row(n)
		x.At, x.Fresh = now-rnd.Int64N(2_000_000), now+rnd.Int64N(1_000_000)-300_000
		x.Counter = rnd.Int64N(5)
		return x
	}
	for i := range int64(n) {
		r.Put([]Row{some(i + 1)})
	}
	states := []*fleet.State{{Default: "a", Policies: map[string]*fleet.Policy{"a": {ID: "a", Active: true}}},
		{Default: "b", Policies: map[string]*fleet.Policy{"b": {ID: "b", Active: true}}}}
	kept := 0
	for step := range 4000 {
		m := rnd.Int64N(n+20) + 1
		switch rnd.IntN(8) {
		case 0:
			r.Put([]Row{some(m)})
		case 1:
			r.Stand(m, Standing{Current: "p", Hash: fmt.Sprint("h", rnd.IntN(3)), Rollup: words[rnd.IntN(5)], Ended: rnd.IntN(9) == 0,
				Counter: int64(step)}, rnd.IntN(2) == 0)
		case 2, 3:
			r.Heard(m, now, now+900_000)
		case 4:
			r.Merge(m, now-rnd.Int64N(500_000), now+rnd.Int64N(900_000))
		case 5:
			r.Connected(m, rnd.IntN(2) == 0)
		case 6:
			r.Heard(m, now+rnd.Int64N(1_000_000), now+rnd.Int64N(9_000_000)) // a clock that is set back since
		case 7:
			if rnd.IntN(40) == 0 {
				r.Assign(states[rnd.IntN(2)])
			}
		}
		now += rnd.Int64N(3000)
		if rnd.IntN(60) == 0 {
			now += rnd.Int64N(400_000)
		}
		if step%10 != 0 {
			continue
		}
		at := Clock{Now: now, Most: now + 900_000, Online: now - 600_000}
		for _, c := range r.chunks {
			if c.sums.valid(at) {
				kept++
			}
		}
		for _, f := range []Filter{{}, {Rollup: words[step/10%5]}, {Status: "online"}, {Status: "offline", State: "retired"},
			{Policy: "b", Rollup: "unknown"}, {Any: []string{"a"}, Status: "online"}} {
			f.Clock = at
			want, first := 0, []int64(nil)
			r.each(false, func(e *entry) bool {
				g := e.group(at)
				if f.compile().group(&g) {
					if want++; want > 7 && want <= 12 {
						first = append(first, e.n)
					}
				}
				return true
			})
			marks, total := r.List(f, Page{Skip: 7, Size: 5})
			var got []int64
			for _, m := range marks {
				got = append(got, m.N)
			}
			if c := r.Count(f, nil); c != want || total != want || !slices.Equal(got, first) {
				t.Fatalf("step %d, %+v: %d, %d, %v; want %d, %v", step, f, c, total, got, want, first)
			}
		}
		sum := 0
		for _, s := range r.Standings("", at) {
			sum += s.Devices
		}
		r.each(false, func(e *entry) bool {
			if e.state == enrolled && e.policy != nothing && e.rollup != nothing {
				sum--
			}
			return true
		})
		if sum != 0 {
			t.Fatalf("step %d: %d too many stand", step, sum)
		}
	}
	if kept < 200 {
		t.Errorf("only %d times were sums of use", kept)
	}
}

func BenchmarkStandings(b *testing.B) {
	r := full(100_000)
	for b.Loop() {
		r.Standings("", clock)
	}
}

func BenchmarkList(b *testing.B) {
	r := full(100_000)
	for _, c := range []struct {
		name string
		f    Filter
		p    Page
	}{{"enrollment", Filter{}, Page{Size: 20}}, {"noncompliant", Filter{Rollup: "noncompliant", Clock: clock}, Page{Size: 20}},
		{"by-name", Filter{}, Page{Sort: ByName, Size: 20}},
		{"tag", Filter{Target: fleet.Target{Tag: "b"}, Clock: clock}, Page{Size: 20}},
		{"user", Filter{Target: fleet.Target{User: "user77"}, Clock: clock}, Page{Size: 20}},
		{"name", Filter{Name: "laptop 9", Clock: clock}, Page{Size: 20}},
		{"text", Filter{Text: "top 77"}, Page{Size: 20}}, {"page-4000", Filter{}, Page{Sort: ByName, Skip: 80_000, Size: 20}}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				r.List(c.f, c.p)
			}
		})
	}
}

func FuzzHolds(f *testing.F) {
	f.Add("Bücher", "ÜCH")
	f.Add("ſ", "S")
	f.Fuzz(func(t *testing.T, s, part string) {
		if part == "" {
			return
		}
		if strings.Contains(s, part) && !contains(s, part) {
			t.Errorf("%q in %q", part, s)
		}
	})
}

func TestEntryFillsCacheLines(t *testing.T) {
	if s := unsafe.Sizeof(entry{}); s != 192 {
		t.Errorf("an entry has %d bytes, want 192", s)
	}
	if at := unsafe.Offsetof(entry{}.n); at != 64 {
		t.Errorf("what most questions look at has %d bytes, want 64", at)
	}
}

// A question that is a little older than the sums gets a list and a total that agree.
func TestOlderQuestion(t *testing.T) {
	r := New()
	const now = 1_000_000_000
	for i := range int64(4) {
		x := row(i)
		x.At, x.Fresh = now-500, now+200 // its word counts for 200 ms more
		x.State, x.Rollup = "enrolled", "compliant"
		r.Put([]Row{x})
	}
	at := func(ms int64) Clock {
		return Clock{Now: now + ms, Most: now + ms + 900_000, Online: now + ms - 600_000}
	}
	r.Standings("", at(500))
	for _, rollup := range []string{"compliant", "unknown"} {
		list, total := r.List(Filter{Rollup: rollup, Clock: at(-100)}, Page{Size: 10})
		count := r.Count(Filter{Rollup: rollup, Clock: at(-100)}, nil)
		if len(list) != total || count != total {
			t.Errorf("%s: %d listed, %d in all, %d counted", rollup, len(list), total, count)
		}
	}
}

// A name's prefix is found whatever its case, in any script; and what a row changes is found from then on.
func TestNames(t *testing.T) {
	names := []string{"Kiosk", "kiosk 2", "\u212aiosk 3", "\u017fales", "Sales", "SALES-berlin-1", "B\u00fcro", "b\u00dcro 2", "b", "",
		"laptop-77", "LAPTOP-771", "laptop-\u00e9"}
	r := New()
	var list []Row
	for i, name := range names {
		list = append(list, Row{N: int64(i + 1), ID: fmt.Sprint("d", i), Name: name, State: "enrolled", User: "ann", Tags: ",a,"})
	}
	r.Put(list)
	for _, begin := range []string{"k", "K", "\u212a", "kiosk ", "s", "\u017f", "sales-ber", "b\u00fc", "B\u00dcRO ", "laptop-7",
		"laptop-77", "laptop-771", "laptop-\u00c9", "x"} {
		var want []int64
		for i, name := range names {
			if runes := []rune(name); len(runes) >= len([]rune(begin)) && strings.EqualFold(string(runes[:len([]rune(begin))]), begin) {
				want = append(want, int64(i+1))
			}
		}
		if got := r.Numbers(Filter{Name: begin}, 0, 100); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", begin, got, want)
		}
	}
	list[4].Name, list[4].User, list[4].Tags = "moved", "bob", ",b,"
	r.Put(list[4:5])
	for _, f := range []Filter{{Name: "MOV"}, {Target: fleet.Target{User: "bob"}}, {Target: fleet.Target{Tag: "b"}}} {
		if got := r.Numbers(f, 0, 100); !slices.Equal(got, []int64{5}) {
			t.Errorf("%+v: %v", f, got)
		}
	}
	if got := r.Numbers(Filter{Target: fleet.Target{User: "ann", Tag: "a"}}, 0, 100); len(got) != len(names)-1 {
		t.Errorf("of the others: %v", got)
	}
}

// Sets of tags that no device has any more make room for others.
func TestTagSets(t *testing.T) {
	r := New()
	one := func(n int64, tags string) {
		r.Put([]Row{{N: n, ID: fmt.Sprint("d", n), State: "enrolled", Tags: tags}})
	}
	for n := range int64(chunkSize) {
		one(n, ",a,")
	}
	for i := range 1000 {
		one(7, fmt.Sprintf(",x%d,", i))
	}
	for n := range int64(chunkSize) {
		one(n, fmt.Sprintf(",b,c%d,", n%3))
	}
	x := &r.chunks[0].index
	if slices.Contains(x.tags[:], many) || len(x.sets) > many {
		t.Errorf("%d sets, and some devices are in none", len(x.sets))
	}
	for tag, want := range map[string]int{"a": 0, "b": chunkSize, "c0": 342, "x999": 0} {
		if got := r.Count(Filter{Target: fleet.Target{Tag: tag}}, nil); got != want {
			t.Errorf("%s: %d devices, want %d", tag, got, want)
		}
	}
}
