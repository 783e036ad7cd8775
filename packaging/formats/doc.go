// Package formats tries the packages that packaging/build.sh makes: its tests install, upgrade and remove those of rpm and
// pacman into a root directory with the formats' own tools, do what apk does by hand, and run lintian. The Debian packages
// are installed on the test laptop (packaging/laptop).
package formats
