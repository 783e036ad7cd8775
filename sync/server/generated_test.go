package server

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// generator makes a Go client from an OpenAPI document; it knows 3.0.
const generator = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.5.1"

// A client generated from the document compiles, and talks to the server.
func TestGeneratedClient(t *testing.T) {
	t.Parallel()
	r := start(t, Options{HTTP: true})
	dir := t.TempDir()
	for _, name := range []string{"openapi.json", "openapi-3.0.json"} {
		res, err := http.Get(r.url + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != 200 || !strings.Contains(string(b[:min(len(b), 400_000)]), `"openapi":"3.`) {
			t.Fatalf("%s: %v %s", name, err, res.Status)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const main = `package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"client/api"
)

func main() {
	auth := func(_ context.Context, q *http.Request) error { q.Header.Set("Authorization", "Bearer "+os.Getenv("TOKEN")); return nil }
	c, err := api.NewClientWithResponses(os.Getenv("SERVER"), api.WithRequestEditorFn(auth))
	if err != nil {
		panic(err)
	}
	uses, note := int64(3), "by a generated client"
	made, err := c.PostEnrollmentsWithResponse(context.Background(), nil, api.EnrollmentBody{Uses: &uses, Note: &note})
	if err != nil || made.JSON201 == nil {
		panic(fmt.Sprint(err, made))
	}
	q := "default"
	list, err := c.GetPoliciesWithResponse(context.Background(), &api.GetPoliciesParams{Q: &q})
	if err != nil || list.JSON200 == nil {
		panic(fmt.Sprint(err, list))
	}
	fmt.Println(*made.JSON201.Token, list.JSON200.Total, (*list.JSON200.Data)[0].Name)
}
`
	for name, text := range map[string]string{"main.go": main, "go.mod": "module client\n\ngo 1.26\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "api"), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		c := exec.Command("go", args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GOFLAGS=-mod=mod -buildvcs=false", "GOWORK=off", "TOKEN="+r.admin, "SERVER="+r.url)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("run", generator, "-generate", "types,client", "-package", "api", "-o", "api/client.go", "openapi-3.0.json")
	run("mod", "tidy")
	out := run("run", ".")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "wte_") || !strings.HasSuffix(last, " 1 Default Security Policy") {
		t.Errorf("%s", out)
	}
	if n := num(r.ok(200, "GET", "/enrollments?q=generated", ""), "total"); n != 1 {
		t.Error(fmt.Sprint(n, " enrollment tokens"))
	}
}
