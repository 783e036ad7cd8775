package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// fetched is a packed list as a device has it.
type fetched struct {
	checkin.Part
	b     bytes.Buffer
	asked []checkin.Part
	most  int // it stops after so many bytes; 0: never
}

var errStopped = errors.New("stopped")

func (f *fetched) Write(b []byte) (int, error) {
	if f.most > 0 && f.b.Len()+len(b) > f.most {
		n, _ := f.b.Write(b[:f.most-f.b.Len()])
		return n, errStopped
	}
	return f.b.Write(b)
}

func (f *fetched) put(p checkin.Part) (io.Writer, error) {
	f.asked = append(f.asked, p)
	f.ETag = p.ETag
	f.b.Truncate(int(p.Size))
	return f, nil
}

func (f *fetched) from(c *checkin.Client, digest string) error {
	f.Size = int64(f.b.Len())
	return c.FetchList(context.Background(), digest, f.Part, f.put)
}

func (f *fetched) text(t *testing.T) string {
	t.Helper()
	r, err := protocol.UnpackList(bytes.NewReader(f.b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Long lists, from an upload to a device: bad lines are all told, a policy can only name what is there, a device fetches a list
// once and goes on where it stopped, and what a policy names stays.
func TestNameLists(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		l := r.laptop("laptop")
		st, out := r.call(r.admin, "POST", "/lists?name=Ads", "good.example\nnot a name\n10.0.0.0/8\n")
		if errs, _ := out["errors"].([]any); st != 400 || len(errs) != 2 || !strings.Contains(fmt.Sprint(errs), "line 2") ||
			!strings.Contains(fmt.Sprint(errs), "line 3") {
			t.Errorf("bad lines: %d %v", st, out)
		}
		if out := r.ok(200, "GET", "/lists", ""); num(out, "total") != 0 {
			t.Errorf("something was stored: %v", out)
		}
		out = r.ok(201, "POST", "/lists?name=Ads&skip_bad=true", "Good.example\nnot a name\n0.0.0.0 exact.example\n")
		id, first := out["id"].(string), out["sha256"].(string)
		if num(out, "names") != 2 || num(out, "bad_lines") != 1 || first != digestOfText("=exact.example\ngood.example\n") {
			t.Errorf("%v", out)
		}
		// Text that cannot be compressed well, of several rows.
		var long strings.Builder
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 120_000 {
			fmt.Fprintf(&long, "%x.example\n", rnd.Uint64())
		}
		out = r.ok(200, "PUT", "/lists/"+id, long.String())
		digest := out["sha256"].(string)
		if num(out, "version") != 2 || num(out, "names") != 120_000 {
			t.Errorf("%v", out)
		}
		if out := r.ok(200, "PUT", "/lists/"+id+"?name=Trackers", long.String()); out["unchanged"] != true || num(out, "version") != 2 {
			t.Errorf("the same names: %v", out)
		}
		if out := r.ok(200, "GET", "/lists/"+id, ""); out["name"] != "Trackers" || r.answer.Get("ETag") != `"2"` {
			t.Errorf("its new name: %v %v", out["name"], r.answer)
		}
		for match, want := range map[string]int{`"1"`: 412, "nonsense": 412, `"2"`: 200} {
			if st, out := r.call(r.admin, "PUT", "/lists/"+id, long.String(), "If-Match", match); st != want {
				t.Errorf("If-Match %s: %d %v", match, st, out)
			}
		}
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/policies", `{"name":"p","policy_data":{"network":{"blocked_lists":[{"id":"%s","sha256":"%s"}]}}}`},
			{"PUT", "/policies/policy-default", `{"policy_data":{"network":{"blocked_lists":[{"id":"%s","sha256":"%s"}]}}}`},
			{"POST", "/policies/validate", `{"policy_data":{"network":{"blocked_lists":[{"id":"%s","sha256":"%s"}]}}}`},
		} {
			for _, x := range [][2]string{{"list-none", digest}, {id, digestOfText("another")}} {
				st, out := r.call(r.admin, c.method, c.path, fmt.Sprintf(c.body, x[0], x[1]))
				if st != 400 || !strings.Contains(fmt.Sprint(out["errors"]), "network.blocked_lists[0]") {
					t.Errorf("%s %s: %d %v", c.method, x, st, out)
				}
			}
		}
		policy := r.policy("p", fmt.Sprintf(`"policy_data":{"network":{"blocked_lists":[{"id":"%s","sha256":"%s"}]}}`, id, first))
		if st, out := r.call(r.admin, "DELETE", "/lists/"+id, ""); st != 409 {
			t.Errorf("a list that a policy names is deleted: %d %v", st, out)
		}
		for i := range 7 { // older versions go, except the one that is named
			r.ok(200, "PUT", "/lists/"+id, fmt.Sprintf("v%d.example\n", i))
		}
		got := r.ok(200, "GET", "/lists/"+id, "")
		var versions []string
		for _, v := range got["versions"].([]any) {
			m := v.(map[string]any)
			versions = append(versions, fmt.Sprint(m["version"]))
			if ids := fmt.Sprint(m["policies"]); (ids == "["+policy+"]") != (m["sha256"] == first) {
				t.Errorf("version %v is named by %v", m["version"], ids)
			}
		}
		if want := []string{"9", "8", "7", "6", "5", "1"}; !slices.Equal(versions, want) {
			t.Errorf("versions %v, wanted %v", versions, want)
		}
		digest = r.ok(200, "PUT", "/lists/"+id, long.String())["sha256"].(string)

		// A device fetches: in one go, from where it stopped, and anew if the server has packed it in another way.
		text := strings.Join(slices.Sorted(strings.Lines(long.String())), "")
		whole := &fetched{}
		if err := whole.from(l.c, digest); err != nil || whole.text(t) != text {
			t.Fatalf("%v; %d bytes", err, whole.b.Len())
		}
		parts := &fetched{most: 300_000}
		if err := parts.from(l.c, digest); !errors.Is(err, errStopped) {
			t.Fatal(err)
		}
		parts.most = 0
		if err := parts.from(l.c, digest); err != nil || parts.text(t) != text || parts.asked[1].Size != 300_000 {
			t.Errorf("%v; asked %+v, %d bytes", err, parts.asked, parts.b.Len())
		}
		if err := parts.from(l.c, digest); err != nil || parts.text(t) != text { // it is here to the end
			t.Errorf("%v", err)
		}
		other := &fetched{Part: checkin.Part{ETag: `"` + strings.Repeat("0", 64) + `"`}}
		other.b.WriteString("something else")
		if err := other.from(l.c, digest); err != nil || other.text(t) != text || other.asked[0].Size != 0 {
			t.Errorf("%v; asked %+v", err, other.asked)
		}
		var no *checkin.StatusError
		if err := (&fetched{}).from(l.c, digestOfText("nothing")); !errors.As(err, &no) || no.Code != 404 {
			t.Errorf("a list that is not there: %v", err)
		}

		// Who may do what.
		if st, _ := r.call(r.view, "POST", "/lists?name=x", "a.example\n"); st != 403 {
			t.Errorf("a viewer uploads: %d", st)
		}
		if st, _ := r.call(r.admin, "GET", "/devices/"+l.out.DeviceID+"/lists/"+digest, ""); st != 401 {
			t.Errorf("an administrator fetches as a device: %d", st)
		}
		for path, want := range map[string]string{"/lists": "?name", "/lists?name=%20": "?name", "/lists?name=x&skip_bad=yes": "?skip_bad"} {
			if st, out := r.call(r.admin, "POST", path, "a.example\n"); st != 400 || !strings.Contains(fmt.Sprint(out["errors"]), want) {
				t.Errorf("%s: %d %v", path, st, out)
			}
		}
		if st, _ := r.call(r.admin, "POST", "/lists?name=x", "# nothing\n"); st != 400 {
			t.Errorf("an empty list: %d", st)
		}
		req, _ := http.NewRequest("POST", r.url+"/api/v1/lists?name=x", io.LimitReader(endless{}, 70<<20))
		req.Header.Set("Authorization", "Bearer "+r.admin)
		if res, err := r.http().Do(req); err == nil { // the server may close the connection while we still write
			if _ = res.Body.Close(); res.StatusCode != 413 {
				t.Errorf("70 MiB: %d", res.StatusCode)
			}
		}
		res, err := http.NewRequest("GET", r.url+"/api/v1/lists/"+id+"/versions/1", nil)
		if err != nil {
			t.Fatal(err)
		}
		res.Header.Set("Authorization", "Bearer "+r.view)
		if got := r.text(res); got != "=exact.example\ngood.example\n" {
			t.Errorf("the text: %q", got)
		}
		r.ok(200, "DELETE", "/policies/"+policy, "")
		r.ok(200, "DELETE", "/lists/"+id, "")
		if st, _ := r.call(r.admin, "GET", "/lists/"+id, ""); st != 404 {
			t.Errorf("it is deleted: %d", st)
		}
		if err := (&fetched{}).from(l.c, digest); !errors.As(err, &no) || no.Code != 404 {
			t.Errorf("a deleted list: %v", err)
		}
	})
}

func digestOfText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// text is the body of a successful answer.
func (r *rig) text(q *http.Request) string {
	r.t.Helper()
	res, err := r.http().Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		r.t.Fatalf("%s: %d %v", q.URL, res.StatusCode, err)
	}
	return string(b)
}

// endless is a list without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	n := 0
	for n+12 <= len(b) {
		n += copy(b[n:], fmt.Sprintf("%08x.a\n", rand.Uint32()))
	}
	return max(n, 1), nil
}

// slow takes what it is sent only when it is let.
type slow struct{ open chan struct{} }

func (s slow) Write(b []byte) (int, error) { <-s.open; return len(b), nil }

// One device that opens many downloads and reads none of them has one place: others are served meanwhile.
func TestDownloadPlaces(t *testing.T) {
	r := start(t, Options{HTTP: true})
	greedy, other := r.laptop("greedy"), r.laptop("other")
	var long strings.Builder
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 700_000 { // more than sockets hold
		fmt.Fprintf(&long, "%x.example\n", rnd.Uint64())
	}
	digest := r.ok(201, "POST", "/lists?name=Long", long.String())["sha256"].(string)
	gate := slow{make(chan struct{})}
	var all sync.WaitGroup
	var begun, refused atomic.Int32
	for range 80 {
		all.Go(func() {
			if err := greedy.c.FetchList(context.Background(), digest, checkin.Part{}, func(checkin.Part) (io.Writer, error) {
				begun.Add(1)
				return gate, nil
			}); err != nil {
				refused.Add(1)
			}
		})
	}
	for end := time.Now().Add(30 * time.Second); begun.Load()+refused.Load() < 80 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("%d were begun, %d refused", begun.Load(), refused.Load())
	f := &fetched{}
	if err := f.from(other.c, digest); err != nil || len(f.text(t)) != long.Len() {
		t.Errorf("%v", err)
	}
	close(gate.open)
	all.Wait()
}

// A policy that names a list, and the list's removal at the same moment: never both.
func TestListRemovedMeanwhile(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		for i := range 12 {
			l := r.ok(201, "POST", fmt.Sprintf("/lists?name=L%d", i), fmt.Sprintf("n%d.example\n", i))
			id := l["id"].(string)
			var created, removed int
			var all sync.WaitGroup
			ask := func(method, path, body string) int {
				req, _ := http.NewRequest(method, r.url+"/api/v1"+path, strings.NewReader(body))
				req.Header.Set("Authorization", "Bearer "+r.admin)
				res, err := r.http().Do(req)
				if err != nil {
					return 0
				}
				_ = res.Body.Close()
				return res.StatusCode
			}
			all.Go(func() {
				created = ask("POST", "/policies", fmt.Sprintf(`{"name":"p%d","policy_data":{"network":{"blocked_lists":[{"id":%q,"sha256":%q}]}}}`,
					i, id, l["sha256"]))
			})
			all.Go(func() { removed = ask("DELETE", "/lists/"+id, "") })
			all.Wait()
			if created == 201 && removed == 200 || created != 201 && removed != 200 {
				t.Errorf("%d: the policy %d, the list %d", i, created, removed)
			}
		}
	})
}

// The lists of one policy have a bound together, because a device has them all in memory.
func TestListsTogether(t *testing.T) {
	r := start(t, Options{HTTP: true})
	var text strings.Builder
	for i := range 2_100_000 {
		fmt.Fprintf(&text, "%d.x\n", i)
	}
	a := r.ok(201, "POST", "/lists?name=A", text.String())
	b := r.ok(201, "POST", "/lists?name=B", strings.ReplaceAll(text.String(), ".x", ".y"))
	st, out := r.call(r.admin, "POST", "/policies", fmt.Sprintf(`{"name":"p","policy_data":{"network":{"blocked_lists":[{"id":%q,"sha256":%q},{"id":%q,"sha256":%q}]}}}`,
		a["id"], a["sha256"], b["id"], b["sha256"]))
	if st != 400 || !strings.Contains(fmt.Sprint(out["errors"]), "network.blocked_lists[1]") || !strings.Contains(fmt.Sprint(out["errors"]), "4000000") {
		t.Errorf("%d %v", st, out)
	}
}
